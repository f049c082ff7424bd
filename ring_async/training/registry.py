"""From `learner.engine` to the trainer it names.

Owns: the names. Does not own: the trainers, nor what each needs to work here (its entry says so).
"""

from __future__ import annotations

from ring_async.config.registry import Registry
from ring_async.config.schema import Config
from ring_async.training.base import TrainEngine, TrainerEntry

TRAINERS: Registry[TrainerEntry] = Registry(
    "learner.engine",
    {
        "hf": "ring_async.training.hf.entry:HfEntry",
        "megatron": "ring_async.training.megatron.entry:MegatronEntry",
    },
)


def make_trainer(config: Config, rank: int = 0, store: str = "") -> TrainEngine:
    """Load the model and build one rank of the trainer that `learner.engine` names. Blocks while weights are read, and
    until all ranks are there.

    Args:
        config: of the run.
        rank: which of `learner.parallel.num_ranks`.
        store: path of the file through which the ranks find each other; "" for a rank alone.

    Raises:
        ConfigError: there is no such trainer here, or it cannot load the model.
    """
    return TRAINERS.find(config.learner.engine).make(config, rank, store)


def trainer_problems(config: Config) -> list[str]:
    """Why `learner.engine` cannot work here, one line each."""
    return TRAINERS.problems(config.learner.engine, config)

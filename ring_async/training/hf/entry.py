"""`learner.engine: hf`, as the registry knows it: a transformers model on one rank or many."""

from __future__ import annotations

from ring_async.config.schema import Config
from ring_async.models import resolve_model_path
from ring_async.training.base import TrainEngine
from ring_async.training.hf.settings import device_of, hf_problems
from ring_async.training.ranks import RankPlace, join_ranks


class HfEntry:
    """Keeps `TrainerEntry`."""

    def make(self, config: Config, rank: int, store: str) -> TrainEngine:
        from ring_async.training.hf.engine import HfTrainEngine

        place = RankPlace(rank, config.learner.parallel.num_ranks, store, device_of(config, rank))
        return HfTrainEngine(config, resolve_model_path(config.model.path), join_ranks(place))

    def check(self, config: Config) -> list[str]:
        return hf_problems(config)

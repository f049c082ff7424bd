"""`learner.engine: hf`, as the registry knows it: a transformers model in one process."""

from __future__ import annotations

from ring_async.config.schema import Config
from ring_async.models import resolve_model_path
from ring_async.training.base import TrainEngine


class HfEntry:
    """Keeps `TrainerEntry`."""

    def make(self, config: Config) -> TrainEngine:
        from ring_async.training.hf.engine import HfTrainEngine

        return HfTrainEngine(config, resolve_model_path(config.model.path))

    def check(self, config: Config) -> list[str]:
        reasons = []
        if config.learner.num_ranks != 1:
            reasons.append(f"it trains in one process; learner.num_ranks is {config.learner.num_ranks}, set it to 1")
        if strangers := sorted(config.learner.engine_options.keys() - {"device"}):
            reasons.append(f"it takes no learner.engine_options but device, not {', '.join(strangers)}; leave them out")
        return reasons

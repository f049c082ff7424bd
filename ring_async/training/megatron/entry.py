"""`learner.engine: megatron`, as the registry knows it: models split by Megatron-core."""

from __future__ import annotations

from ring_async.config.schema import Config
from ring_async.models import resolve_model_path
from ring_async.training.base import TrainEngine
from ring_async.training.hf.settings import device_of
from ring_async.training.megatron.settings import megatron_problems, refuse_problems
from ring_async.training.ranks import RankPlace, join_ranks


class MegatronEntry:
    """Keeps `TrainerEntry`."""

    def make(self, config: Config, rank: int, store: str) -> TrainEngine:
        folder = resolve_model_path(config.model.path)
        refuse_problems(config, folder)
        from ring_async.training.megatron.engine import MegatronTrainEngine

        place = RankPlace(rank, config.learner.parallel.num_ranks, store, device_of(config, rank))
        return MegatronTrainEngine(config, folder, join_ranks(place))

    def check(self, config: Config) -> list[str]:
        return megatron_problems(config)

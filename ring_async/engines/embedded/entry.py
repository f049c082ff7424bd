"""`rollout.engine: embedded`, as the registry knows it: PyTorch in the actor's own process."""

from __future__ import annotations

from pathlib import Path

from ring_async.config.schema import Config
from ring_async.engines.base import RolloutEngine
from ring_async.models import resolve_model_path
from ring_async.telemetry.trace import Tracer


class EmbeddedEntry:
    """Keeps `EngineEntry`."""

    def make(self, config: Config, engine_id: str, tracer: Tracer, log_dir: Path) -> RolloutEngine:
        from ring_async.engines.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(
            engine_id,
            resolve_model_path(config.model.path),
            max_running_requests=config.rollout.max_running_requests,
            num_threads=config.rollout.num_threads,
            dtype=config.model.dtype,
            tracer=tracer,
            **config.rollout.engine_options,
        )

    def check(self, config: Config) -> list[str]:
        if strangers := sorted(config.rollout.engine_options.keys() - {"device"}):
            return [f"it takes no rollout.engine_options but device, not {', '.join(strangers)}; leave them out"]
        return []

    def check_host(self, config: Config) -> list[str]:
        return []

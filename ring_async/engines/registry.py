"""From `rollout.engine` to the engine it names.

Owns: the names. Does not own: the engines, nor what each needs to work here (its entry says so).
"""

from __future__ import annotations

from ring_async.config.registry import Registry
from ring_async.config.schema import Config
from ring_async.engines.base import EngineEntry, RolloutEngine
from ring_async.telemetry.trace import Tracer

ENGINES: Registry[EngineEntry] = Registry(
    "rollout.engine",
    {
        "embedded": "ring_async.engines.embedded.entry:EmbeddedEntry",
        "sglang": "ring_async.engines.sglang.entry:SglangEntry",
    },
)


def make_engine(config: Config, engine_id: str, tracer: Tracer) -> RolloutEngine:
    """Build the engine that `rollout.engine` names; nothing is loaded before its `start`.

    Args:
        config: of the run.
        engine_id: goes into the provenance of what the engine generates.
        tracer: draws when the engine computes.

    Raises:
        ConfigError: there is no such engine here.
    """
    return ENGINES.find(config.rollout.engine).make(config, engine_id, tracer)


def engine_problems(config: Config) -> list[str]:
    """Why `rollout.engine` cannot work here, one line each."""
    return ENGINES.problems(config.rollout.engine, config)

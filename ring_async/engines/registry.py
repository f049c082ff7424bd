"""From `rollout.engine` to the engine it names.

Owns: the names. Does not own: the engines, nor what each needs to work here (its entry says so).
"""

from __future__ import annotations

from pathlib import Path

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


def make_engine(config: Config, engine_id: str, tracer: Tracer, log_dir: Path) -> RolloutEngine:
    """Build the engine that `rollout.engine` names; nothing is loaded before its `start`.

    Args:
        config: of the run.
        engine_id: goes into the provenance of what the engine generates.
        tracer: draws when the engine computes.
        log_dir: folder on this host for what a server of the engine prints.

    Raises:
        ConfigError: there is no such engine here.
    """
    return ENGINES.find(config.rollout.engine).make(config, engine_id, tracer, log_dir)


def engine_problems(config: Config) -> list[str]:
    """Why `rollout.engine` cannot work with this configuration, one line each."""
    return ENGINES.problems(config.rollout.engine, config)


def engine_host_problems(config: Config) -> list[str]:
    """Why `rollout.engine` cannot run on this host, one line each. Ask where rollouts run."""
    name = config.rollout.engine
    return [ENGINES.line(name, lack) for lack in ENGINES.find(name).check_host(config)]

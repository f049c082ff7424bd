"""`rollout.engine: sglang`, as the registry knows it: an SGLang server beside the actor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.engines.base import RolloutEngine
from ring_async.engines.sglang.plugin import NAME
from ring_async.engines.sglang.versions import release_of
from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path
from ring_async.telemetry.trace import Tracer

OPTIONS = frozenset(
    {
        "address",
        "api_key",
        "device",
        "is_adaptive",
        "mean_tokens",
        "server_args",
        "stall_s",
        "start_deadline_s",
        "stream_interval",
        "tensor_parallel",
    }
)
_PLUGIN_GROUP = "sglang.srt.plugins"
_START_SHARE = 0.9
"""Of `placement.start_timeout_s`, for the server: an actor that is late itself is counted dead, without a word."""


class SglangEntry:
    """Keeps `EngineEntry`."""

    def make(self, config: Config, engine_id: str, tracer: Tracer, log_dir: Path) -> RolloutEngine:
        from ring_async.engines.sglang.engine import SglangEngine

        rollout = config.rollout
        deadline_s = _START_SHARE * config.placement.start_timeout_s
        return SglangEngine(
            engine_id,
            resolve_model_path(config.model.path),
            max_running_requests=rollout.max_running_requests,
            dtype=config.model.dtype,
            deterministic=rollout.deterministic,
            max_kv_age=rollout.max_kv_age,
            log_dir=log_dir,
            tracer=tracer,
            **({"start_deadline_s": deadline_s} | rollout.engine_options),
        )

    def check(self, config: Config) -> list[str]:
        """Settings; the server itself is asked when it has started."""
        return list(_setting_problems(config))

    def check_host(self, config: Config) -> list[str]:
        """Packages."""
        return list(_package_problems(config))


def _package_problems(config: Config) -> Iterator[str]:
    if importlib.util.find_spec("aiohttp") is None:
        yield "the package aiohttp is missing: pip install ring-async[sglang]"
    if "address" in config.rollout.engine_options:
        return
    try:
        release_of(importlib.metadata.version("sglang"))
    except importlib.metadata.PackageNotFoundError:
        yield (
            "the package sglang is missing: install 0.5.17 (for torch 2.11) or a later one (docs/sglang.md), "
            "or use embedded"
        )
    except ConfigError as error:
        yield str(error)
    else:
        names = {point.name for point in importlib.metadata.entry_points(group=_PLUGIN_GROUP)}
        if config.rollout.on_update == "keep" and NAME not in names:
            yield (
                "rollout.on_update is keep, and SGLang would not find the plugin that tags its steps: install "
                "ring-async in this environment (pip install -e .), or use reprefill or abort"
            )


def _setting_problems(config: Config) -> Iterator[str]:
    rollout = config.rollout
    if strangers := sorted(rollout.engine_options.keys() - OPTIONS):
        yield (
            f"it takes no rollout.engine_options but {', '.join(sorted(OPTIONS))}, not {', '.join(strangers)}; "
            f"flags of the server itself go into server_args"
        )
    if "address" not in rollout.engine_options and config.placement.gpus.get(Role.ROLLOUT, 0.0) <= 0:
        yield "each rollout needs a GPU, or a share of one; placement.gpus.rollout is 0, set it, or use embedded"
    start_s, limit_s = rollout.engine_options.get("start_deadline_s", 0.0), config.placement.start_timeout_s
    if start_s >= limit_s:
        yield (
            f"rollout.engine_options.start_deadline_s {start_s:g} is not below placement.start_timeout_s {limit_s:g}, "
            "after which an actor that has not registered counts as dead; raise the latter"
        )
    num_engines = rollout.num + config.roster.evaluator
    if "address" in rollout.engine_options and num_engines > 1:
        yield (
            f"rollout.engine_options.address names one server, and {num_engines} engines would put their weights into "
            "it; set rollout.num=1 and evaluation.every_versions=0, or leave the address out"
        )
    elif config.roster.evaluator and config.placement.gpus.get(Role.EVALUATOR, 0.0) <= 0:
        yield (
            "the evaluator starts a server of its own and needs a GPU, or a share of one; placement.gpus.evaluator is "
            "0, set it, or set evaluation.every_versions=0"
        )
    if rollout.max_kv_age is not None and rollout.on_update != "keep":
        yield (
            f"rollout.max_kv_age bounds the cache's age under keep alone, and rollout.on_update is "
            f"{rollout.on_update}; leave it out"
        )
    elif rollout.max_kv_age is not None and rollout.max_kv_age >= config.replay.max_staleness:
        yield (
            f"rollout.max_kv_age {rollout.max_kv_age} can do nothing: replay.max_staleness "
            f"{config.replay.max_staleness} evicts such responses anyway; set it lower, or leave it out"
        )

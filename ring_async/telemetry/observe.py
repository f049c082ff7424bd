"""Metrics from figures that actors have anyway: a step's line, an engine's load, the delay of the event loop.

Owns: which figure goes into which metric. Does not own the figures, nor how often they are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from ring_async.clock import monotonic_s
from ring_async.telemetry import metrics

_GAUGES = {
    "effective_sample_size": metrics.learner_effective_sample_size,
    "entropy": metrics.learner_entropy,
    "grad_norm": metrics.learner_grad_norm,
    "behavior_ratio_masked": metrics.learner_masked_ratio,
    "policy_version": metrics.learner_policy_version,
}


def observe_step(line: Mapping[str, Any]) -> None:
    """Set the learner's gauges from a line of `metrics.jsonl`, whole or the learner's part of it."""
    for key, gauge in _GAUGES.items():
        if isinstance(line.get(key), int | float):
            gauge.set(line[key])
    for statistic in ("mean", "max"):
        if isinstance(line.get(f"staleness_{statistic}"), int | float):
            metrics.learner_staleness.labels(statistic=statistic).set(line[f"staleness_{statistic}"])
    for source, reward in (line.get("reward_by_source") or {}).items():
        metrics.learner_reward_mean.labels(source=source).set(reward)
    metrics.learner_nonfinite_tokens.inc(line.get("nonfinite_tokens") or 0)
    metrics.learner_waiting_seconds.labels(cause="batch").inc(line.get("wait_batch_s") or 0)


class Load(Protocol):
    """What is read of an engine (`engines.base.EngineLoad` fits)."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def busy_s(self) -> float: ...


class EngineMeter:
    """Turns an engine's running totals into counters."""

    def __init__(self) -> None:
        self._generated_tokens = 0
        self._busy_s = 0.0

    def observe(self, load: Load) -> None:
        """Count the increase since the last call. A total that fell means that the engine was restarted."""
        metrics.rollout_running_requests.set(load.num_running)
        metrics.rollout_waiting_requests.set(load.num_waiting)
        metrics.rollout_generated_tokens.inc(_growth(self._generated_tokens, load.generated_tokens))
        metrics.rollout_busy_seconds.inc(_growth(self._busy_s, load.busy_s))
        self._generated_tokens, self._busy_s = load.generated_tokens, load.busy_s


async def observe_loop_lag(every_s: float = 0.5) -> None:
    """Consumes nothing / produces how late the loop wakes / waits for time / freed by time; cancel it to end."""
    while True:
        due_s = monotonic_s() + every_s
        await asyncio.sleep(every_s)
        metrics.actor_event_loop_lag.observe(max(0.0, monotonic_s() - due_s))


def _growth(before: float, now: float) -> float:
    return now - before if now >= before else now

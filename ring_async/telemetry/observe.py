"""Metrics from figures that actors have anyway: a step's line, an engine's load, the delay of the event loop.

Owns: which figure goes into which metric. Does not own the figures, nor how often they are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from ring_async.clock import monotonic_s
from ring_async.records.steps import StepRecord
from ring_async.telemetry import metrics
from ring_async.telemetry.resources import peak_flops

FULL_REWARD = 0.999
"""Rewards from here on count as full: sums of weighted parts may fall short of 1 by rounding."""
SAME_REWARD = 1e-9

_GAUGES = {
    "effective_sample_size": metrics.learner_effective_sample_size,
    "entropy": metrics.learner_entropy,
    "grad_norm": metrics.learner_grad_norm,
    "behavior_ratio_masked": metrics.learner_masked_ratio,
    "policy_version": metrics.learner_policy_version,
    "padding_fraction": metrics.learner_padding,
    "mismatch_kl": metrics.learner_mismatch_kl,
    "behavior_kl": metrics.learner_behavior_kl,
}


def observe_step(step: StepRecord) -> None:
    """Set the learner's gauges from the learner's part of a step's line."""
    for field, gauge in _GAUGES.items():
        if (value := getattr(step, field)) is not None:
            gauge.set(value)
    for statistic, staleness in (("mean", step.staleness_mean), ("max", step.staleness_max)):
        if staleness is not None:
            metrics.learner_staleness.labels(statistic=statistic).set(staleness)
    for source, reward in (step.reward_by_source or {}).items():
        metrics.learner_reward_mean.labels(source=source).set(reward)
    metrics.learner_nonfinite_tokens.inc(step.nonfinite_tokens or 0)
    if step.model_flops and step.step_s and (peak := peak_flops()):
        metrics.learner_mfu.set(step.model_flops / step.step_s / peak)


def observe_verdicts(rewards: Sequence[float], source: str, epoch: int) -> None:
    """Count the verdicts of one group: rewards, full ones among them, and whether the group carries a signal."""
    labels = {"source": source, "epoch": str(epoch)}
    for reward in rewards:
        metrics.reward_value.labels(**labels).observe(reward)
    metrics.reward_passed.labels(**labels).inc(sum(reward >= FULL_REWARD for reward in rewards))
    metrics.reward_groups.labels(**labels).inc()
    metrics.reward_no_signal.labels(**labels).inc(max(rewards) - min(rewards) < SAME_REWARD)


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

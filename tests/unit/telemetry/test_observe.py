from __future__ import annotations

import asyncio

import pytest

from ring_async.engines.base import EngineLoad
from ring_async.telemetry import metrics
from ring_async.telemetry.observe import EngineMeter, observe_loop_lag, observe_step
from ring_async.testing.builders import make_metrics_row
from ring_async.testing.virtual_clock import run_virtual


def test_a_steps_line_becomes_the_learners_gauges():
    before = metrics.values()
    observe_step(make_metrics_row(7, entropy=0.5, wait_batch_s=0.25, nonfinite_tokens=3, staleness_max=4))
    after = metrics.values()
    assert after["ring_learner_policy_version"] == 7
    assert after["ring_learner_entropy_nats"] == 0.5
    assert after["ring_learner_staleness_versions{statistic=max}"] == 4
    assert 0 < after["ring_learner_reward_mean{source=sums}"] < 1
    for name, grown in (
        ("ring_learner_waiting_seconds_total{cause=batch}", 0.25),
        ("ring_learner_nonfinite_tokens_total", 3),
    ):
        assert after[name] - before.get(name, 0) == pytest.approx(grown)


def test_missing_figures_change_nothing():
    before = metrics.values()
    observe_step({"entropy": None})
    changed = {
        name for name, value in metrics.values().items() if name.startswith("ring_") and before.get(name, 0) != value
    }
    assert changed == set()


def test_running_totals_become_counters_also_when_an_engine_starts_anew():
    def total() -> float:
        return metrics.values()["ring_rollout_generated_tokens_total"]

    meter, start = EngineMeter(), total()
    for tokens in (10, 10, 25, 5):
        meter.observe(EngineLoad(num_running=3, num_waiting=1, capacity=8, generated_tokens=tokens, busy_s=tokens / 10))
    assert total() - start == 30
    assert metrics.values()["ring_rollout_running_requests"] == 3


def test_the_loops_lateness_is_measured():
    async def main() -> None:
        lag = asyncio.create_task(observe_loop_lag(0.5))
        await asyncio.sleep(5.2)
        lag.cancel()

    before = metrics.values()
    run_virtual(main())
    after = metrics.values()
    name = "ring_actor_event_loop_lag_seconds"
    assert after[f"{name}_count"] - before[f"{name}_count"] == 10
    assert after[f"{name}_sum"] - before[f"{name}_sum"] == pytest.approx(0.0)

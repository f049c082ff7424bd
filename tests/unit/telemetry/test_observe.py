from __future__ import annotations

import asyncio

import pytest

from ring_async.engines.base import EngineLoad
from ring_async.records.steps import StepRecord, step_record
from ring_async.telemetry import metrics
from ring_async.telemetry.observe import EngineMeter, observe_loop_lag, observe_step, observe_verdicts
from ring_async.testing.builders import make_metrics_row
from ring_async.testing.virtual_clock import run_virtual


def test_a_steps_line_becomes_the_learners_gauges():
    before = metrics.values()
    row = make_metrics_row(7, entropy=0.5, nonfinite_tokens=3, staleness_max=4, mismatch_kl=0.01, padding_fraction=0.25)
    observe_step(step_record(row))
    after = metrics.values()
    assert after["ring_learner_policy_version"] == 7
    assert after["ring_learner_entropy_nats"] == 0.5
    assert after["ring_learner_staleness_versions{statistic=max}"] == 4
    assert 0 < after["ring_learner_reward_mean{source=sums}"] < 1
    assert (after["ring_learner_mismatch_kl_nats"], after["ring_learner_padding_ratio"]) == (0.01, 0.25)
    assert after["ring_learner_nonfinite_tokens_total"] - before["ring_learner_nonfinite_tokens_total"] == 3


def test_missing_figures_change_nothing():
    before = metrics.values()
    observe_step(StepRecord(policy_version=int(before["ring_learner_policy_version"])))
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


def test_verdicts_of_a_group_count_full_rewards_and_groups_without_a_signal():
    before = metrics.values()
    for rewards in ([1.0, 1.0], [0.2, 1.0], [0.0, 0.0], [0.5, 0.5]):
        observe_verdicts(rewards, "verdicts", 3)
    after = metrics.values()
    labels = "{epoch=3,source=verdicts}"
    grown = {
        name: after[f"ring_reward_{name}{labels}"] - before.get(f"ring_reward_{name}{labels}", 0)
        for name in ("groups_total", "passed_verdicts_total", "no_signal_groups_total", "value_count", "value_sum")
    }
    assert grown == {
        "groups_total": 4, "passed_verdicts_total": 3, "no_signal_groups_total": 3, "value_count": 8,
        "value_sum": pytest.approx(4.2),
    }  # fmt: skip

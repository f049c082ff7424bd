"""Every metric is declared once, named by the rules, and served by the actor it belongs to."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from ring_async.telemetry import metrics
from ring_async.telemetry.exporter import RoleView
from ring_async.testing.virtual_clock import run_virtual

ROLES = ("actor", "rollout", "reward", "replay", "learner", "evaluator", "controller", "transport")
UNITS = (
    "seconds bytes tokens groups requests versions ratio nats trajectories messages frames verdicts failures value "
    "epoch commits steps norm mean reservations members restarts open events version responses prompts mismatches"
)


@pytest.mark.parametrize("declared", metrics.declarations(), ids=lambda declared: declared.name)
def test_names_follow_the_rules(declared):
    match = re.fullmatch(r"ring_([a-z]+)_[a-z_]+", declared.name)
    assert match is not None
    assert match[1] in ROLES
    assert declared.name.removesuffix("_total").rpartition("_")[2] in UNITS.split()
    assert declared.name.endswith("_total") == (declared.kind == "counter")
    assert declared.meaning.endswith(".")
    assert set(declared.labels).isdisjoint({"prompt_id", "group_id", "trajectory_id"})


def test_every_metric_is_declared_once_and_registered():
    names = [declared.name for declared in metrics.declarations()]
    assert len(names) == len(set(names))
    registered = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("ring_")}
    assert registered == {name.removesuffix("_total") for name in names}


def test_waiting_counts_seconds_of_the_loops_clock_also_when_it_fails():
    counter = Counter("waiting", "test", ["cause"], registry=None)

    async def main() -> None:
        with metrics.waiting(counter, "batch"):
            await asyncio.sleep(3.0)
        with pytest.raises(TimeoutError), metrics.waiting(counter, "batch"):
            async with asyncio.timeout(2.0):
                await asyncio.Event().wait()

    run_virtual(main())
    assert counter.labels(cause="batch")._value.get() == pytest.approx(5.0)


def test_values_are_flat_and_leave_buckets_out():
    registry = CollectorRegistry()
    Counter("failures", "test", ["verifier", "cause"], registry=registry).labels("math", "timeout").inc(2)
    Gauge("size", "test", registry=registry).set(7)
    assert metrics.values(registry) == {"failures_total{cause=timeout,verifier=math}": 2.0, "size": 7.0}


def test_an_actor_exports_its_own_metrics_and_what_all_share():
    names = {family.name for family in RoleView(metrics.REGISTRY, "learner").collect()}
    assert "ring_learner_steps" in names
    assert "ring_transport_rejected_frames" in names
    assert not any(name.startswith(("ring_rollout_", "ring_replay_")) for name in names)


def test_the_documentation_lists_every_metric():
    text = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text()
    table = documented_metrics()
    assert table in text, f"docs/monitoring.md is behind; put this between its markers:\n{table}"


def documented_metrics() -> str:
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{declared.name}` | {declared.kind} | {', '.join(declared.labels) or '–'} | {declared.meaning} |"
        for declared in metrics.declarations()
    ]
    return "\n".join(lines)

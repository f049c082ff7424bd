"""Idle seconds count once, under one cause, though several tasks run at once."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter

from ring_async.core.fleet.states import WaitCause
from ring_async.telemetry import metrics
from ring_async.telemetry.idle import IdleMeter
from ring_async.testing.virtual_clock import run_virtual


def seconds_of(registry: CollectorRegistry) -> dict[str, float]:
    found = {name: value for name, value in metrics.values(registry).items() if "_total" in name}
    return {name.partition("cause=")[2].rstrip("}"): pytest.approx(value) for name, value in found.items()}


def test_work_hides_waits_and_the_longest_wait_names_the_cause():
    registry = CollectorRegistry()
    idle = IdleMeter(Counter("idle", "test", ["cause"], registry=registry), otherwise=WaitCause.GROUP)

    async def task(after_s: float, work_s: float, commit_s: float) -> None:
        await asyncio.sleep(after_s)
        with idle.working():
            await asyncio.sleep(work_s)
        with idle.waiting(WaitCause.COMMIT):
            await asyncio.sleep(commit_s)

    async def main() -> None:
        idle.flush()
        # second 0 to 2: no task; 2 to 5: the first works; 5 to 6: it waits; 6 to 7: the other works, it waits still;
        # 7 to 9: both wait; 9 to 10: one does; 10 to 12: no task
        await asyncio.gather(task(2.0, 3.0, 4.0), task(6.0, 1.0, 3.0))
        await asyncio.sleep(2.0)
        idle.flush()

    run_virtual(main())
    assert seconds_of(registry) == {"group": 4.0, "commit": 4.0}


def test_a_wait_that_lasts_is_counted_before_it_ends_and_an_actor_without_a_cause_counts_nothing():
    registry = CollectorRegistry()
    idle = IdleMeter(Counter("idle", "test", ["cause"], registry=registry))

    async def main() -> None:
        idle.flush()
        await asyncio.sleep(5.0)
        with idle.waiting(WaitCause.BATCH):
            await asyncio.sleep(3.0)
            idle.flush()
            assert seconds_of(registry) == {"batch": 3.0}

    run_virtual(main())
    assert seconds_of(registry) == {"batch": 3.0}

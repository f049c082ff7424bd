"""Time jumps, stands still while anybody can go on, and never hangs."""

from __future__ import annotations

import asyncio
import time

import pytest

from ring_async.clock import monotonic_s
from ring_async.testing.virtual_clock import DeadlockError, VirtualTimeLimitError, run_virtual


def test_a_day_passes_at_once_and_timers_fire_in_order():
    seen: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, monotonic_s()))

    async def main() -> float:
        async with asyncio.TaskGroup() as tasks:
            for name, seconds in (("c", 40_000.0), ("a", 0.25), ("b", 3.0)):
                tasks.create_task(wait(name, seconds))
        return monotonic_s()

    assert run_virtual(main()) == pytest.approx(40_000.0)
    assert [name for name, _ in seen] == ["a", "b", "c"]
    assert [at for _, at in seen] == pytest.approx([0.25, 3.0, 40_000.0])


def test_time_stands_still_while_callbacks_are_ready():
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return monotonic_s()

    assert run_virtual(main(), start_s=5.0) == 5.0


def test_timeouts_follow_the_virtual_clock():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.Event().wait()
        return monotonic_s()

    assert run_virtual(main()) == pytest.approx(600.0)


@pytest.mark.parametrize("start_s", [0.0, 1.8e9, 1e15])
@pytest.mark.parametrize("seconds", [1e-9, 0.1, 1000.3])
def test_timers_fire_also_where_the_clock_is_coarse(start_s, seconds):
    async def main() -> float:
        await asyncio.sleep(seconds)
        return monotonic_s() - start_s

    assert run_virtual(main(), start_s=start_s, limit_s=2000.0) == pytest.approx(seconds, abs=0.5, rel=0)


def test_a_deadlock_names_every_waiting_task():
    async def stuck_consumer() -> None:
        await asyncio.Queue[int]().get()

    async def main() -> None:
        task = asyncio.create_task(stuck_consumer(), name="consumer-7")
        await task

    with pytest.raises(DeadlockError, match=r"(?s)consumer-7: .*stuck_consumer waits in .*test_virtual_clock"):
        run_virtual(main())


def test_heartbeats_around_a_stuck_task_end_at_the_limit():
    async def beat() -> None:
        while True:
            await asyncio.sleep(1.0)

    async def main() -> None:
        beats = asyncio.create_task(beat(), name="heartbeats")
        await asyncio.Event().wait()
        beats.cancel()

    with pytest.raises(VirtualTimeLimitError, match=r"still running at 60 s(?s:.*)heartbeats"):
        run_virtual(main(), limit_s=60.0)


def test_executor_work_runs_at_once_and_takes_no_virtual_time():
    def work(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number * 2

    async def main() -> tuple[int, float]:
        doubled = await asyncio.to_thread(work, 21)
        with pytest.raises(ValueError, match="negative"):
            await asyncio.to_thread(work, -1)
        return doubled, monotonic_s()

    assert run_virtual(main()) == (42, 0.0)


def test_tasks_are_cancelled_and_cleaned_up_after_a_deadlock():
    cleaned: list[float] = []

    async def holder() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(2.0)
            cleaned.append(monotonic_s())

    async def main() -> None:
        task = asyncio.create_task(holder())
        await task

    with pytest.raises(DeadlockError):
        run_virtual(main())
    assert cleaned == [2.0]


def test_the_same_program_runs_the_same_way_every_time():
    async def main() -> list[tuple[int, float]]:
        order: list[tuple[int, float]] = []

        async def worker(index: int) -> None:
            for step in range(3):
                await asyncio.sleep((index * 7 + step * 3) % 5 / 10)
                order.append((index, monotonic_s()))

        await asyncio.gather(*(worker(index) for index in range(8)))
        return order

    assert run_virtual(main()) == run_virtual(main())


def test_no_real_time_is_spent_waiting():
    began_s = time.process_time()
    run_virtual(asyncio.sleep(80_000))
    assert time.process_time() - began_s < 1.0

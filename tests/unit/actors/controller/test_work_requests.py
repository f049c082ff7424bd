"""Requests for work: answered within a moment, divided fairly, and without cost while nothing can be granted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from ring_async.actors.controller.work_requests import LEFTOVER_S, LONG_POLL_S, WorkRequests
from ring_async.clock import monotonic_s
from ring_async.core.work.admission import Grant
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.messages.work import GroupsReserved, ReserveGroups

ASK = ReserveGroups(1, None)


def make_requests() -> WorkRequests:
    """Nothing is ever granted."""

    async def make_ahead(number: int) -> None:
        """No source is slow."""

    dispatcher = SimpleNamespace(
        prompts=SimpleNamespace(make_ahead=make_ahead),
        grantable=lambda version: Grant(0, "full"),
        issue=lambda owners: {},
    )
    fleet = SimpleNamespace(members={"rollout-0"}, wanted=SimpleNamespace(is_leaving=lambda actor_id: False))
    life = SimpleNamespace(is_stopping=False, is_paused=False)
    return WorkRequests(dispatcher, fleet, life, on_given_up=lambda given_up: None)  # type: ignore[arg-type]


class Question:
    def __init__(self, sender: str = "rollout-0") -> None:
        self.sender = sender
        self.answers: list[Any] = []

    def reply(self, message: Any) -> None:
        self.answers.append(message)


def test_a_request_is_answered_with_the_reason_when_its_time_is_up():
    async def main() -> None:
        question = Question()
        await make_requests().answer(question, ASK)  # type: ignore[arg-type]
        assert monotonic_s() == LONG_POLL_S
        assert question.answers == [GroupsReserved((), "full")]

    run_virtual(main())


@pytest.mark.parametrize("num_turns", range(8))
def test_requests_cancelled_as_they_time_out_keep_no_lock(num_turns: int):
    """Python 3.11's `wait_for` around a condition's `wait` kept it, so that the controller's tick stood still."""

    async def main() -> None:
        requests, loop = make_requests(), asyncio.get_running_loop()
        waiting = [asyncio.create_task(requests.answer(Question(), ASK)) for _ in range(3)]  # type: ignore[arg-type]

        def cancel_after(turns: int) -> None:
            if turns:
                loop.call_soon(cancel_after, turns - 1)
            else:
                for task in waiting:
                    task.cancel()

        loop.call_at(LONG_POLL_S, cancel_after, num_turns)
        await asyncio.wait(waiting, timeout=10.0)
        assert all(task.done() for task in waiting)
        requests.look_again()
        async with asyncio.timeout(2 * LONG_POLL_S):
            await requests.answer(Question(), ASK)  # type: ignore[arg-type]

    run_virtual(main())


class Work:
    """A dispatcher that may grant `num_grantable` more groups, and the requests to it of some rollouts."""

    def __init__(self, num_rollouts: int) -> None:
        self.rollouts = [f"rollout-{index}" for index in range(num_rollouts)]
        self.num_grantable = 0
        self.num_asked = 0
        self.under_way: Counter[str] = Counter()
        self.leases = SimpleNamespace(num_held=self.under_way.__getitem__, num_open=0)
        self.prompts = SimpleNamespace(make_ahead=self.make_ahead)
        fleet = SimpleNamespace(
            members=set(self.rollouts),
            wanted=SimpleNamespace(is_leaving=lambda actor_id: False, num_wanted=lambda role: num_rollouts),
        )
        life = SimpleNamespace(is_stopping=False, is_paused=False)
        self.requests = WorkRequests(self, fleet, life, on_given_up=lambda given_up: None)  # type: ignore[arg-type]

    async def make_ahead(self, number: int) -> None:
        """No source is slow."""

    def grantable(self, version: Any) -> Grant:
        self.num_asked += 1
        return Grant(self.num_grantable, "" if self.num_grantable else "full")

    def issue(self, owners: Iterable[str]) -> dict[str, list[Any]]:
        issued: dict[str, list[Any]] = {}
        for owner in owners:
            issued.setdefault(owner, []).append(f"{owner}: {self.under_way[owner]}")
            self.under_way[owner] += 1
            self.leases.num_open += 1
            self.num_grantable -= 1
        return issued

    def ask(self, *rollouts: str, num_groups: int = 16) -> list[asyncio.Task[None]]:
        ask = ReserveGroups(num_groups, None)
        return [asyncio.create_task(self.requests.answer(Question(one), ask)) for one in rollouts]  # type: ignore[arg-type]


async def gone_by(seconds: float, work: Work) -> None:
    """Let time pass, with a look every tick, as the controller's."""
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
        work.requests.look_again()
        await asyncio.sleep(0)


def test_the_first_in_line_does_not_take_all():
    async def main() -> None:
        work = Work(8)
        work.num_grantable = 16
        await asyncio.gather(*work.ask(*work.rollouts))
        assert work.under_way == dict.fromkeys(work.rollouts, 2)

    run_virtual(main())


def test_what_a_batch_makes_room_for_is_divided_among_those_that_wait():
    async def main() -> None:
        work = Work(8)
        granting = asyncio.create_task(work.requests.run())
        work.under_way["rollout-3"], work.leases.num_open = 1, 1
        asking = work.ask(*work.rollouts)
        await asyncio.sleep(0)
        work.num_grantable = 7
        work.requests.look_again()
        await asyncio.sleep(0.2)
        assert work.under_way == dict.fromkeys(work.rollouts, 1)
        granting.cancel()
        await asyncio.gather(*asking)

    run_virtual(main())


def test_what_others_leave_is_given_after_a_while():
    async def main() -> None:
        work = Work(4)
        granting = asyncio.create_task(work.requests.run())
        work.num_grantable = 8
        await asyncio.gather(*work.ask("rollout-0"))
        assert work.under_way["rollout-0"] == 2
        asking = work.ask("rollout-0")
        await gone_by(LEFTOVER_S - 0.1, work)
        assert work.under_way["rollout-0"] == 2
        await gone_by(0.3, work)
        assert work.under_way["rollout-0"] == 8
        granting.cancel()
        await asyncio.gather(*asking)

    run_virtual(main())


def test_requests_that_wait_cost_nothing_while_nothing_can_be_granted():
    async def main() -> None:
        work = Work(1_000)
        granting = asyncio.create_task(work.requests.run())
        asking = work.ask(*work.rollouts)
        await asyncio.sleep(0.05)
        work.num_asked = 0
        await gone_by(0.5, work)
        assert work.num_asked == 5, "one question for each tick, not one for each request that waits"
        granting.cancel()
        await asyncio.gather(*asking)

    run_virtual(main())

"""Requests for work: answered within a moment, and one that is cancelled as it times out leaves no lock behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ring_async.actors.controller.work_requests import LONG_POLL_S, WorkRequests
from ring_async.clock import monotonic_s
from ring_async.core.work.admission import Grant
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.messages.work import GroupsReserved, ReserveGroups

ASK = ReserveGroups(1, None)


def make_requests() -> WorkRequests:
    """Nothing is ever granted."""
    dispatcher = SimpleNamespace(grantable=lambda version: Grant(0, "full"), issue=lambda owner, num_groups: ())
    fleet = SimpleNamespace(members={"rollout-0"}, wanted=SimpleNamespace(is_leaving=lambda actor_id: False))
    life = SimpleNamespace(is_stopping=False, is_paused=False)
    return WorkRequests(dispatcher, fleet, life, lambda given_up: None)  # type: ignore[arg-type]


class Question:
    sender = "rollout-0"

    def __init__(self) -> None:
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
        async with asyncio.timeout(1.0):
            await requests.look_again()

    run_virtual(main())

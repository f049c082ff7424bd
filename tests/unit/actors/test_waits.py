"""Waits under the virtual clock: names, deadlines, and questions that are asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ring_async.actors.waits import ASK_AGAIN_S, Waits, ask_until_answered, finish_or_cancel, until_stopped
from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import WaitCause
from ring_async.errors import ActorFailedError, PeerGoneError, PeerTimeoutError, RefusedError, TransportError
from ring_async.testing.virtual_clock import run_virtual


def asked(*outcomes: str | Exception):
    """A question that meets these outcomes, one after another."""
    left: Iterator[str | Exception] = iter(outcomes)

    async def ask() -> str:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


def test_a_wait_is_named_while_it_lasts_and_fails_at_its_deadline():
    async def main() -> None:
        waits = Waits("learner-0")
        assert (waits.longest(), waits.cause) == (("", 0.0), WaitCause.NONE)

        async def wait_for_a_batch() -> None:
            async with waits.on("a batch from replay-0", 60.0, WaitCause.BATCH):
                await asyncio.sleep(100.0)

        waiting = asyncio.create_task(wait_for_a_batch())
        await asyncio.sleep(20.0)
        async with waits.on("something else", 1.0):
            assert (waits.longest(), waits.cause) == (("a batch from replay-0", 20.0), WaitCause.BATCH)
        with pytest.raises(ActorFailedError, match="learner-0 waited 60 s for a batch from replay-0"):
            await waiting
        assert waits.longest() == ("", 0.0)

    run_virtual(main())


def test_a_question_is_asked_again_until_it_is_answered():
    async def main() -> None:
        silence = PeerTimeoutError("no answer")
        began_s = monotonic_s()
        assert await ask_until_answered(asked(silence, silence, "yes")) == "yes"
        assert monotonic_s() - began_s == pytest.approx(2 * ASK_AGAIN_S)

    run_virtual(main())


@pytest.mark.parametrize("error", [RefusedError("no"), TransportError("this outbox is closed")])
def test_a_no_and_a_closed_link_are_no_reason_to_ask_again(error: TransportError):
    with pytest.raises(type(error), match=str(error)):
        run_virtual(ask_until_answered(asked(error, "yes")))


@pytest.mark.parametrize("error", [PeerTimeoutError("no answer"), TransportError("this outbox is closed")])
def test_a_peer_that_has_left_is_asked_no_more(error: TransportError):
    with pytest.raises(PeerGoneError, match=str(error)):
        run_virtual(ask_until_answered(asked(error, "yes"), is_gone=lambda: True))


def test_a_no_counts_also_from_a_peer_that_has_left():
    with pytest.raises(RefusedError):
        run_virtual(ask_until_answered(asked(RefusedError("no")), is_gone=lambda: True))


def test_tasks_may_finish_within_their_time():
    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (1.0, 5.0)]
        await finish_or_cancel(tasks, 2.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True]

    run_virtual(main())


def test_work_goes_on_until_it_is_stopped_or_fails():
    async def fail() -> None:
        await asyncio.sleep(1.0)
        raise ActorFailedError("it broke")

    async def main() -> None:
        stopping = asyncio.Event()
        endless = asyncio.create_task(asyncio.sleep(1e6))
        asyncio.get_running_loop().call_later(3.0, stopping.set)
        await until_stopped(stopping, endless)
        assert endless.cancelled()
        assert monotonic_s() == pytest.approx(3.0)
        with pytest.raises(ActorFailedError, match="it broke"):
            await until_stopped(asyncio.Event(), asyncio.create_task(fail()))

    run_virtual(main())

"""Prompts made in threads: a slow task holds up nobody but itself, and what is issued is what it would have been."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ring_async.actors.controller.prompt_ahead import NUM_AHEAD, PromptAhead, PromptFailedError, ThreadPerCall
from ring_async.actors.controller.prompts import PromptScheduler
from ring_async.testing.builders import make_config, make_prompt
from ring_async.testing.one_process import CountingSource
from ring_async.types import Prompt


class Gated(CountingSource):
    """Makes no prompt until it is opened."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = threading.Event()

    def prompt(self, index: int) -> Prompt:
        assert self.gate.wait(60)
        return super().prompt(index)


class Odd(CountingSource):
    """Cannot make prompt 1; prompt 2 is far too long for the shipped model."""

    def prompt(self, index: int) -> Prompt:
        if index == 1:
            raise KeyError("answer")
        if index == 2:
            return make_prompt("odd/2", source="odd", text="1 + " * 300)
        return super().prompt(index)


def scheduler_of(*sources: CountingSource) -> PromptScheduler:
    by_name = {source.name: source for source in sources}
    config = make_config(
        sources={name: {"task": "chain_sum", "verifier": "exact"} for name in by_name},
        mixture=dict.fromkeys(by_name, 1.0),
        verifiers={"exact": {"use": "math"}},
    )
    return PromptScheduler(config, lambda name, section: by_name[name])


def issued(scheduler: PromptScheduler, number: int) -> list[str]:
    not_ready: set[str] = set()
    reservations = [scheduler.next(not_ready) for _ in range(number)]
    return [reservation.group_id for reservation in reservations if reservation is not None]


def test_the_loop_goes_on_while_a_prompt_is_made() -> None:
    async def run() -> None:
        source = Gated("slow")
        ahead = PromptAhead(source, lambda prompt: "")
        making = ahead.start(5, 2)
        assert making is not None
        assert ahead.at(5) is None
        assert ahead.is_late(5)
        assert ahead.start(5, 2) is making
        source.gate.set()
        await making
        assert [ahead.at(5), ahead.at(6)] == [source.prompt(5), source.prompt(6)]
        assert ahead.start(6, 1) is None
        assert ahead.is_late(7 + NUM_AHEAD)

    asyncio.run(run())


def test_a_slow_source_leaves_its_turn_to_the_others() -> None:
    async def run() -> None:
        slow = Gated("slow")
        scheduler = scheduler_of(slow, CountingSource("quick"))
        await scheduler.make_ahead(4)
        assert issued(scheduler, 4) == [f"quick-0000000{n}" for n in range(4)]
        assert scheduler.why_none() == ""
        slow.gate.set()
        while scheduler._searches["slow"].is_late(0):
            await scheduler.make_ahead(4)
        assert "slow-00000000" in issued(scheduler, 2)

    asyncio.run(run())


def test_nothing_but_a_slow_source_is_a_reason() -> None:
    async def run() -> None:
        slow = Gated("slow")
        scheduler = scheduler_of(slow)
        await scheduler.make_ahead(1)
        assert scheduler.why_none() == "prompts of slow are still being made"
        assert issued(scheduler, 1) == []
        scheduler.close()
        slow.gate.set()

    asyncio.run(run())


def test_what_is_issued_is_the_same_ahead_or_not() -> None:
    async def ahead() -> list[str]:
        scheduler = scheduler_of(CountingSource("a"), CountingSource("b", 3))
        found = []
        for number in (1, 5, 2, 8):
            for name, search in scheduler._searches.items():
                while (making := search.start(scheduler.cursors[name], number)) is not None:
                    await making
            found += issued(scheduler, number)
        return found

    found = asyncio.run(ahead())
    in_place = scheduler_of(CountingSource("a"), CountingSource("b", 3))
    assert found == issued(in_place, len(found))


def test_a_prompt_that_cannot_be_made_or_is_too_long_is_passed_over() -> None:
    scheduler = scheduler_of(Odd("odd"))
    assert issued(scheduler, 2) == ["odd-00000000", "odd-00000003"]
    ahead = scheduler_of(Odd("odd"))._searches["odd"].ahead
    with pytest.raises(PromptFailedError, match="prompt 1 cannot be made: KeyError: 'answer'"):
        ahead.at(1)
    with pytest.raises(PromptFailedError, match=r"prompt 2 is refused: odd/2: \d+ tokens are more than the \d+ that"):
        ahead.at(2)


def test_a_call_that_fails_hands_its_error_over() -> None:
    with pytest.raises(ZeroDivisionError):
        ThreadPerCall().submit(lambda: 1 // 0).result(60)

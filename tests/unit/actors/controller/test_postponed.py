"""Messages that meet a full disk: kept, in order by sender and kind, and taken in once there is room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from ring_async.actors.controller.postponed import Postponed
from ring_async.errors import RefusedError, StorageError
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.work import GroupsFailed, TrajectoriesMoved


@dataclass
class Sent:
    """A delivery, and what became of it."""

    sender: str
    message: Message
    buffers: tuple[memoryview, ...] = ()
    settled: str = ""

    def ack(self) -> None:
        self.settled = "acknowledged"

    def reply(self, message: Message, buffers: Any = ()) -> None:
        self.settled = type(message).__name__

    def refuse(self, reason: str) -> None:
        self.settled = f"refused: {reason}"


class Disk:
    """Takes messages in while it has room."""

    def __init__(self) -> None:
        self.has_room = False
        self.taken: list[tuple[str, str]] = []

    async def take(self, sender: str, message: Message) -> Message:
        if not self.has_room:
            raise StorageError("no room")
        if isinstance(message, GroupsFailed) and not message.group_ids:
            raise RefusedError("no groups")
        self.taken.append((sender, type(message).__name__))
        return Done()


def moved(sender: str) -> Sent:
    return Sent(sender, TrajectoriesMoved(()))


def test_what_comes_behind_a_waiting_message_of_its_kind_waits_too() -> None:
    async def scenario() -> None:
        disk = Disk()
        postponed = Postponed(disk.take)
        first, second = moved("a"), moved("a")
        await postponed.take(first)
        disk.has_room = True
        await postponed.take(second)
        await postponed.take(Sent("a", GroupsFailed(("g0",), "late")))
        await postponed.take(moved("b"))
        assert disk.taken == [("a", "GroupsFailed"), ("b", "TrajectoriesMoved")], "others do not wait"
        assert (len(postponed), first.settled, second.settled) == (2, "", "")
        await postponed.retry()
        assert (len(postponed), first.settled, second.settled) == (0, "acknowledged", "acknowledged")

    asyncio.run(scenario())


def test_a_disk_that_stays_full_refuses_nobody_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        disk = Disk()
        postponed = Postponed(disk.take)
        waiting = [moved(sender) for sender in "abc"]
        for one in waiting:
            await postponed.take(one)
        await postponed.retry()
        assert [one.settled for one in waiting] == ["", "", ""]
        disk.has_room = True
        await postponed.retry()
        assert [sender for sender, _ in disk.taken] == ["a", "b", "c"]

    asyncio.run(scenario())
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_other_errors_are_refusals() -> None:
    async def scenario() -> str:
        disk = Disk()
        disk.has_room = True
        refused = Sent("a", GroupsFailed((), "late"))
        await Postponed(disk.take).take(refused)
        return refused.settled

    assert asyncio.run(scenario()) == "refused: no groups"

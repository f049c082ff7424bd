"""Messages that meet a full disk: kept, in order by sender and kind, and taken in once there is room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from ring_async.actors.controller.postponed import Postponed
from ring_async.errors import StorageError
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.work import GroupsFailed, TrajectoriesMoved


@dataclass
class Sent:
    """A delivery, as far as `Postponed` looks at one."""

    sender: str
    message: Message
    buffers: tuple[memoryview, ...] = ()

    def ack(self) -> None: ...

    def reply(self, message: Message, buffers: Any = ()) -> None: ...

    def refuse(self, reason: str) -> None: ...


class Disk:
    """Takes messages in while it has room."""

    def __init__(self) -> None:
        self.has_room = False
        self.taken: list[Sent] = []

    async def take(self, delivery: Any) -> None:
        if not self.has_room:
            raise StorageError("no room")
        self.taken.append(delivery)


MOVED, FAILED = TrajectoriesMoved(()), GroupsFailed((), "late")


def test_what_comes_behind_a_waiting_message_of_its_kind_waits_too() -> None:
    async def scenario() -> None:
        disk = Disk()
        postponed = Postponed(disk.take)
        first, second, third = Sent("a", MOVED), Sent("a", MOVED), Sent("a", MOVED)
        await postponed.take(first)
        disk.has_room = True
        await postponed.take(second)
        other, another = Sent("a", FAILED), Sent("b", MOVED)
        for one in (other, another):
            await postponed.take(one)
        assert disk.taken == [other, another], "other kinds and other senders do not wait"
        assert len(postponed) == 2
        await postponed.retry()
        await postponed.take(third)
        assert [id(one) for one in disk.taken[2:]] == [id(first), id(second), id(third)]
        assert len(postponed) == 0

    asyncio.run(scenario())


def test_a_disk_that_fills_up_again_keeps_the_rest_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        disk = Disk()
        postponed = Postponed(disk.take)
        for sender in "abc":
            await postponed.take(Sent(sender, MOVED))
        await postponed.retry()
        assert len(postponed) == 3
        disk.has_room = True
        await postponed.retry()
        assert [one.sender for one in disk.taken] == ["a", "b", "c"]

    asyncio.run(scenario())
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1, "said once"

"""Messages that the controller cannot take in yet, because its disk has no room for what they change.

Owns: these messages, their order, and the answer to each message. Does not own what a message means, or the journal.
Invariants: nobody is told that a message is safe before it is on disk; a full disk refuses nothing for good, since a
refusal is final; messages of one kind from one sender are taken in the order sent.

While the disk is full, senders of durable messages run out of credit and wait. Heartbeats and questions go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from ring_async.errors import RingAsyncError, StorageError
from ring_async.transport.base import Delivery
from ring_async.transport.messages.base import Done, Message

log = logging.getLogger(__name__)


class Postponed:
    """Takes messages in, or keeps them until they can be.

        postponed = Postponed(handle)
        await postponed.take(delivery)     # handled, or kept: `handle` raised StorageError
        await postponed.retry()            # later, over and over

    Args:
        handle: takes in a sender's message and returns the answer; raises StorageError, with nothing changed, if there
            is no room.
    """

    def __init__(self, handle: Callable[[str, Message], Awaitable[Message]]) -> None:
        self._handle = handle
        self._waiting: deque[Delivery] = deque()
        self._trouble = ""

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self, delivery: Delivery) -> None:
        """Handle a delivery now, unless an earlier one of its kind and sender waits, or there is no room."""
        if any(one.sender == delivery.sender and type(one.message) is type(delivery.message) for one in self._waiting):
            self._waiting.append(delivery)
            return
        try:
            await self._answer(delivery)
        except StorageError as full:
            self._say(str(full))
            self._waiting.append(delivery)

    async def retry(self) -> None:
        """Handle what waits, oldest first, as far as there is room."""
        while self._waiting:
            try:
                await self._answer(self._waiting[0])
            except StorageError:
                return
            self._waiting.popleft()
        if self._trouble:
            log.info("there is room on the disk again")
            self._trouble = ""

    async def _answer(self, delivery: Delivery) -> None:
        try:
            answer = await self._handle(delivery.sender, delivery.message)
            if isinstance(answer, Done):
                delivery.ack()
            else:
                delivery.reply(answer)
        except StorageError:
            raise
        except RingAsyncError as refusal:
            delivery.refuse(str(refusal))

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("messages wait for room on the disk: %s", trouble)

"""Messages that the controller cannot take in yet, because its disk has no room for what they change.

Owns: these messages and their order. Does not own what a message means, or the journal.
Invariants: nobody is told that a message is safe before it is on disk; a full disk refuses nothing for good, since a
refusal is final; messages of one kind from one sender are taken in the order sent.

While the disk is full, senders of durable messages run out of credit and wait. Heartbeats and questions go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from ring_async.errors import StorageError
from ring_async.transport.base import Delivery

log = logging.getLogger(__name__)


class Postponed:
    """Takes messages in, or keeps them until they can be.

        postponed = Postponed(handle)
        await postponed.take(delivery)     # handled, or kept: `handle` raised StorageError
        await postponed.retry()            # later, over and over

    Args:
        handle: takes in and settles one delivery; raises StorageError, with nothing settled, if there is no room.
    """

    def __init__(self, handle: Callable[[Delivery], Awaitable[None]]) -> None:
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
            await self._handle(delivery)
        except StorageError as full:
            self._say(str(full))
            self._waiting.append(delivery)

    async def retry(self) -> None:
        """Handle what waits, oldest first, as far as there is room."""
        while self._waiting:
            try:
                await self._handle(self._waiting[0])
            except StorageError:
                return
            self._waiting.popleft()
        if self._trouble:
            log.info("there is room on the disk again")
            self._trouble = ""

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("messages wait for room on the disk: %s", trouble)

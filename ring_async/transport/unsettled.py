"""The messages of one outbox that its inbox has not settled: which wait to be transmitted, which are under way.

Owns: these messages and their order. Does not own: when to transmit (`outbox`), credits (`credit`).
Invariants: `waiting` holds, in order, exactly the entries with a `seq` above `last_transmitted`, and `num_in_flight`
counts all others; an abandoned request keeps its place until the inbox settles it, if it was transmitted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Entry:
    """One message that is not settled."""

    seq: int
    kind: str
    message_id: str
    is_request: bool
    encoded: bytes
    buffers: tuple[memoryview, ...]
    future: asyncio.Future[Any]
    num_buffer_bytes: int
    is_transmitted: bool = False
    is_abandoned: bool = False


class Unsettled:
    """Keeps messages from `add` to `settle`.

    unsettled.add(entry)          # seq 0: waits
    unsettled.transmitted()       # the link took it: under way
    unsettled.rewind(-1)          # the inbox forgot it, or never had it: waits again
    unsettled.settle(0)           # the inbox settled it: gone
    """

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """Messages by `seq`, ascending."""
        self.waiting: deque[Entry] = deque()
        self.num_in_flight = 0
        self.last_transmitted = -1

    def add(self, entry: Entry) -> None:
        self.entries[entry.seq] = entry
        self.waiting.append(entry)

    def transmitted(self) -> None:
        """Count the first waiting message as under way."""
        entry = self.waiting.popleft()
        entry.is_transmitted = True
        self.last_transmitted = entry.seq
        self.num_in_flight += 1

    def drop_first(self) -> None:
        """Forget the first waiting message."""
        self.entries.pop(self.waiting.popleft().seq, None)

    def settle(self, seq: int) -> Entry | None:
        """Forget and return the message that the inbox settled; None if it was forgotten before."""
        entry = self.entries.pop(seq, None)
        if entry is not None:
            # An entry settled while it waits to be sent again had been accepted before; it must not go out once more.
            if seq <= self.last_transmitted:
                self.num_in_flight -= 1
            else:
                self.waiting.remove(entry)
        return entry

    def abandon(self, entry: Entry) -> bool:
        """Note that no caller waits for this answer any more. Returns whether the entry is forgotten and its credit
        free.

        A transmitted message keeps its credit until the inbox settles it.
        """
        entry.is_abandoned = True
        entry.buffers = ()
        if entry not in self.waiting:
            return False
        self.waiting.remove(entry)
        del self.entries[entry.seq]
        return True

    def rewind(self, accepted: int) -> None:
        """The inbox accepted messages up to `accepted`: everything after it waits again."""
        self.waiting = deque(entry for entry in self.entries.values() if entry.seq > accepted)
        self.num_in_flight = len(self.entries) - len(self.waiting)
        self.last_transmitted = accepted

    def take_transmitted_requests(self) -> list[Entry]:
        """Forget the requests that were transmitted, and return them. `rewind` must follow."""
        taken = [entry for entry in self.entries.values() if entry.is_request and entry.is_transmitted]
        for entry in taken:
            del self.entries[entry.seq]
        return taken

    def fail_all(self, error: Exception) -> None:
        """Forget all messages; each one's future raises this error."""
        for entry in self.entries.values():
            fail(entry.future, error)
        self.entries.clear()
        self.waiting.clear()


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Set an error, unless the future is done; nobody needs to retrieve it."""
    if not future.done():
        future.set_exception(error)
        # Retrieved here: whoever dropped the future need not be told that the channel closed.
        future.exception()

"""Credits: room for messages of one sender at one inbox, and the callers that wait for it.

Owns: the queue of waiters, and the words and seconds of waiting. Does not own: how many messages are unsettled
(`outbox` knows) or what the inbox grants.
Invariants: first come, first served; credit given to a waiter that has not run yet is promised, and nobody else takes
it; a waiter that is cancelled passes its credit on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Credit:
    """The credits of one outbox: how many messages may be unsettled, and which callers wait for room.

        credit.granted = 2                # the inbox welcomed this sender
        if not credit.is_free:
            await credit.wait()           # returns once the inbox has settled a message and `wake` was called

    Args:
        peer: the inbox's owner, which grants the credits, for messages to people.
        num_unsettled: returns the number of credits in use.
        on_wait: called when a caller begins to wait.
    """

    def __init__(self, peer: str, num_unsettled: Callable[[], int], on_wait: Callable[[], None]) -> None:
        self.granted = 0
        """Credits that the inbox grants; 0 until it has welcomed this sender."""
        self.wait_s = 0.0
        """Seconds that callers of `wait` have waited, added up."""
        self._peer = peer
        self._num_unsettled = num_unsettled
        self._on_wait = on_wait
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[tuple[asyncio.Future[None], float]] = deque()
        self._num_promised = 0

    @property
    def is_free(self) -> bool:
        """Whether a caller that has not waited may submit a message now."""
        return not self._waiters and self._num_unsettled() + self._num_promised < self.granted

    @property
    def is_wanted(self) -> bool:
        """Whether a caller waits, or was given credit that it has not used yet."""
        return bool(self._waiters or self._num_promised)

    @property
    def waiting_for(self) -> str | None:
        """`credit from replay-0, 12 s` while somebody waits, else None."""
        if not self._waiters:
            return None
        return f"credit from {self._peer}, {self._loop.time() - self._waiters[0][1]:.0f} s"

    async def wait(self) -> None:
        """Wait for room. A caller must submit its message before it awaits anything else."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        since_s = self._loop.time()
        self._waiters.append((waiter, since_s))
        self._on_wait()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._num_promised -= 1
            self._waiters = deque(other for other in self._waiters if other[0] is not waiter)
            self.wake()
            raise
        finally:
            self.wait_s += self._loop.time() - since_s
        self._num_promised -= 1

    def wake(self) -> None:
        """Give free credits to the callers that wait, in order."""
        while self._waiters and self._num_unsettled() + self._num_promised < self.granted:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._num_promised += 1

    def fail(self, error: Exception) -> None:
        """End every wait with this error."""
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

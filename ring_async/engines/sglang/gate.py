"""Whether requests may go to the server now, and if not, why.

Owns: the reasons that stand in the way (a swap, a restart), and those who wait for them to go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Gate:
    """Open while no reason keeps it closed. Example: `gate.close("swap")`, …, `gate.open("swap")`."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_open(self) -> bool:
        return not self._reasons

    def close(self, reason: str) -> None:
        self._reasons.add(reason)

    def open(self, reason: str) -> None:
        """Take one reason away."""
        self._reasons.discard(reason)
        self.wake()

    def wake(self) -> None:
        """Let everyone who waits look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, is_moot: Callable[[], bool] = lambda: False) -> None:
        """Consumes nothing / produces nothing / waits for the gate / freed by its opening, or by `wake` when moot."""
        while self._reasons and not is_moot():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

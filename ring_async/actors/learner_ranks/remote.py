"""The ranks of a learner on another host, as rank 0 sees them: one link to the process that stands for rank 0 there.

Owns: the link, and noticing that the host is lost. Does not own the ranks' processes (`host`, on that host).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ring_async.actors.learner_ranks.orders import Answer, Given, Leave, answer_decoder, encode
from ring_async.errors import ActorFailedError, PeerTimeoutError, RefusedError, TransportError
from ring_async.transport.base import Outbox
from ring_async.transport.messages.ranks import AreRanksAlive, GiveOrder, RankAnswered

KNOCK_S = 1.0
KNOCK_TIMEOUT_S = 6.0
"""How long a host may be silent: it is noticed within `KNOCK_S + KNOCK_TIMEOUT_S`."""

ORDER_TIMEOUT_S = 7 * 24 * 3600.0
"""An order takes as long as it takes: a host that is lost is noticed by knocking."""


class RemoteRanks:
    """Ranks of one other host. Call it from the event loop.

    Args:
        host: number of the host among the learner's, for messages.
        outbox: to the process that stands for rank 0 there.
        on_lost: is told why, once, when the host or one of its ranks is gone.
    """

    def __init__(self, host: int, outbox: Outbox, on_lost: Callable[[str], None]) -> None:
        self._host = host
        self._outbox = outbox
        self._on_lost = on_lost
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._knocking = asyncio.create_task(self._knock(), name=f"knock at host {host}")

    def give(self, rank: int, given: Given) -> asyncio.Future[Answer]:
        """Give a rank an order. The future raises ActorFailedError once the host is lost."""
        # Tasks begin in the order in which they are made, and so do their messages.
        task = asyncio.create_task(self._ask(GiveOrder(rank, encode(given), isinstance(given.order, Leave))))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Stop knocking, and close the link."""
        self._knocking.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(self._knocking, *self._tasks, return_exceptions=True)
        await self._outbox.close()

    async def _ask(self, order: GiveOrder) -> Answer:
        try:
            answer = await self._outbox.request(order, timeout_s=ORDER_TIMEOUT_S)
        except (PeerTimeoutError, RefusedError, TransportError) as error:
            raise ActorFailedError(f"host {self._host} of the learner: {error}") from error
        assert isinstance(answer.message, RankAnswered)
        return answer_decoder.decode(answer.message.content)

    async def _knock(self) -> None:
        """Consumes signs of life / produces the loss of the host / waits a moment / freed by time."""
        while True:
            try:
                await self._outbox.request(AreRanksAlive(), timeout_s=KNOCK_TIMEOUT_S)
            except (PeerTimeoutError, RefusedError, TransportError) as error:
                self._on_lost(f"host {self._host} of the learner: {error}")
                return
            await asyncio.sleep(KNOCK_S)

"""The legs that are at the server now, and how they are ended.

Owns: the table of legs, and the patience of an abort. Does not own what becomes of their responses (`engine`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from ring_async.clock import monotonic_s
from ring_async.engines.sglang.http import ServerLostError
from ring_async.engines.sglang.life import ServerLife
from ring_async.engines.sglang.response import Leg, Response

_ASK_AGAIN_S = 0.1
_END_DEADLINE_S = 60.0


class LegsUnderWay:
    """Example: `legs.add(leg, response, life)`, … `legs.remove(leg)`; `await legs.until_ended(life, list(legs))`."""

    def __init__(self) -> None:
        self._legs: dict[str, tuple[Leg, Response, ServerLife]] = {}
        self._one_ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._legs)

    def __iter__(self) -> Iterator[Leg]:
        return iter([leg for leg, _, _ in self._legs.values()])

    def add(self, leg: Leg, response: Response, life: ServerLife) -> None:
        self._legs[leg.request_id] = (leg, response, life)

    def remove(self, leg: Leg) -> None:
        del self._legs[leg.request_id]
        self._one_ended.set()

    def by_request(self) -> dict[str, tuple[Leg, ServerLife]]:
        """The present leg of each response that has one, and the server's life it is at, by the request's id."""
        return {response.request.request_id: (leg, life) for leg, response, life in self._legs.values()}

    def of_aborted(self) -> list[Leg]:
        """Those whose responses were aborted."""
        return [leg for leg, response, _ in self._legs.values() if response.is_aborted]

    def mark_aborted(self, legs: Iterable[Leg]) -> None:
        """Their responses do not go on after these legs."""
        for leg in legs:
            if leg.request_id in self._legs:
                self._legs[leg.request_id][1].is_aborted = True

    async def cut_off(self, life: ServerLife, legs: Iterable[Leg]) -> None:
        """Ask the server to abort these legs: with one request where they are all it has."""
        under_way = [leg for leg in legs if leg.request_id in self._legs]
        for leg in under_way:
            leg.is_cut = True
        if under_way and len(under_way) == len(self._legs):
            await life.abort(None)
        else:
            await asyncio.gather(*(life.abort(leg.request_id) for leg in under_way))

    async def until_ended(self, life: ServerLife, legs: Iterable[Leg]) -> None:
        """Consumes nothing / produces aborts / waits for the ends of these legs' streams / freed by each of them, and
        by the end of the server's life.

        Aborts are repeated: a request can arrive at the server behind its own abort.

        Raises:
            ServerLostError: they do not end.
        """
        give_up_s = monotonic_s() + _END_DEADLINE_S
        ask_again_s = monotonic_s() + _ASK_AGAIN_S
        left = list(legs)
        while (left := [leg for leg in left if leg.request_id in self._legs]) and not life.is_closed:
            now_s = monotonic_s()
            if now_s > give_up_s:
                raise ServerLostError(f"{len(left)} requests did not end within {_END_DEADLINE_S:.0f} s of their abort")
            if now_s > ask_again_s:
                await self.cut_off(life, left)
                ask_again_s = monotonic_s() + _ASK_AGAIN_S
            self._one_ended.clear()
            try:
                async with asyncio.timeout(_ASK_AGAIN_S):
                    await self._one_ended.wait()
            except TimeoutError:
                pass

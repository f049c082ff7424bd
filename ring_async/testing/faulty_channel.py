"""A channel inside one process that loses, delays, repeats and reorders frames, and can be cut: all from one seed.

Owns: what happens to a frame under way. Does not own: the session protocol, which has to put it right (the contract
suite runs over this channel as over the others).
Invariants: equal seeds and equal traffic give equal faults; only the loop's clock is used.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ring_async.config.schema import TransportSection
from ring_async.transport.memory import MemoryHub


@dataclass(frozen=True, slots=True)
class Faults:
    """The chances of faults, for each message in either direction.

    Attributes:
        drop: chance of vanishing.
        duplicate: chance of arriving twice, each copy with its own delay.
        reorder: chance of being held back by up to `reorder_s`, so that later messages overtake it.
        delay_s: shortest and longest time under way. Alone it keeps the order.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    reorder_s: float = 0.05


class FaultyHub(MemoryHub):
    """A hub that loses, repeats, reorders and delays messages. Use with `MemoryTransport`.

    Args:
        faults: what goes wrong.
        seed: of every choice.
        limits: of messages, as on the wire.
    """

    def __init__(self, faults: Faults, *, seed: int, limits: TransportSection | None = None) -> None:
        super().__init__(limits)
        self.faults = faults
        self.happened: Counter[str] = Counter()
        """`dropped`, `duplicated`, `reordered`, `cut`, `delivered`: a test can prove that there were faults."""
        self._random = random.Random(seed)
        self._cuts: set[frozenset[str]] = set()
        self._arrival_s: dict[tuple[str, str], float] = {}

    def cut(self, one: str, other: str) -> None:
        """Lose all messages between two actors, in either direction, until `heal`. Neither actor is told."""
        self._cuts.add(frozenset((one, other)))

    def heal(self) -> None:
        """Undo every cut."""
        self._cuts.clear()

    def dispatch(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        if frozenset((source, target)) in self._cuts:
            self.happened["cut"] += 1
            return
        faults, chance = self.faults, self._random.random
        if chance() < faults.drop:
            self.happened["dropped"] += 1
            return
        num_copies = 1
        if chance() < faults.duplicate:
            self.happened["duplicated"] += 1
            num_copies = 2
        for _ in range(num_copies):
            self._send_off(source, target, deliver)

    def _send_off(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        arrival_s = loop.time() + self._random.uniform(*self.faults.delay_s)
        if self._random.random() < self.faults.reorder:
            self.happened["reordered"] += 1
            arrival_s += self._random.uniform(0.0, self.faults.reorder_s)
        else:
            # One way keeps its order: nothing that is not reordered arrives before, or at the very time of, what left
            # earlier (timers of equal times fire in any order).
            arrival_s = max(arrival_s, math.nextafter(self._arrival_s.get((source, target), 0.0), math.inf))
            self._arrival_s[source, target] = arrival_s

        def arrive() -> None:
            # A cut also stops what was under way.
            if frozenset((source, target)) in self._cuts:
                self.happened["cut"] += 1
                return
            self.happened["delivered"] += 1
            deliver()

        loop.call_at(arrival_s, arrive)

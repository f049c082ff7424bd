"""How many responses an engine should sample at once: as many as its cache of keys and values holds.

Owns: the decision. Too few leave the device idle; with too many the engine throws running requests out (retracts them)
and computes their caches again. Growth is additive and needs proof of room; a retraction shrinks it by a factor.
Does not own: reading the engine's figures, or admitting requests.
Invariant: the limit stays within `[lowest, highest]`, whatever is observed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheLoad:
    """An engine's figures at one moment.

    Attributes:
        num_running: requests being sampled.
        num_waiting: requests the engine holds back.
        used_share: of the cache's tokens, in [0, 1].
        num_retractions: since start.
    """

    num_running: int
    num_waiting: int
    used_share: float
    num_retractions: int


@dataclass(slots=True)
class AdaptiveConcurrency:
    """A limit that follows the engine.

    Example:
        concurrency = AdaptiveConcurrency(lowest=8, highest=512)
        limit = concurrency.observe(CacheLoad(num_running=512, num_waiting=0, used_share=0.7, num_retractions=0))

    Attributes:
        lowest, highest: bounds of the limit.
        growth: requests added at a time, as a share of `highest`.
        shrink: factor after a retraction.
        high_water: used share of the cache from which on the limit does not grow.
        settle: observations after a retraction in which nothing changes: running responses must end first.
    """

    lowest: int
    highest: int
    growth: float = 0.05
    shrink: float = 0.85
    high_water: float = 0.85
    settle: int = 5
    limit: int = 0
    _num_retractions: int = 0
    _unsettled: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.highest:
            raise ValueError(f"concurrency: lowest {self.lowest} and highest {self.highest} leave no room")
        if self.limit == 0:
            self.limit = self.highest
        self.limit = max(self.lowest, min(self.highest, self.limit))

    def observe(self, load: CacheLoad) -> int:
        """Take the engine's figures in; returns the limit from now on. An engine that started anew counts from 0."""
        num_new = load.num_retractions - min(self._num_retractions, load.num_retractions)
        self._num_retractions = load.num_retractions
        if self._unsettled:
            self._unsettled -= 1
        elif num_new:
            running = min(load.num_running, self.limit) or self.limit
            self.limit = max(self.lowest, int(running * self.shrink))
            self._unsettled = self.settle
        elif self._has_proven_room(load):
            self.limit = min(self.highest, self.limit + max(1, int(self.highest * self.growth)))
        return self.limit

    def _has_proven_room(self, load: CacheLoad) -> bool:
        """The limit is reached, and yet the cache has room and nobody waits for it."""
        return load.num_running >= self.limit and not load.num_waiting and load.used_share < self.high_water

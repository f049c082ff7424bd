"""A set of whole numbers that are mostly neighbours, kept as runs.

Owns: membership. Does not own what the numbers mean.
Invariant: runs are sorted, do not overlap and do not touch, so that the set of 0 … n − 1 takes one pair.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class IndexRuns:
    """Numbers as runs `[start, end)`.

    runs = IndexRuns()
    for index in (0, 1, 3, 2):
        runs.add(index)
    runs.pairs      # [(0, 4)]
    """

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in pairs:
            self._starts.append(start)
            self._ends.append(end)

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._starts, index) - 1
        return place >= 0 and index < self._ends[place]

    def add(self, index: int) -> None:
        """Add a number; one that is there already changes nothing."""
        if index in self:
            return
        place = bisect_right(self._starts, index)
        touches_before = place > 0 and self._ends[place - 1] == index
        touches_after = place < len(self._starts) and self._starts[place] == index + 1
        if touches_before and touches_after:
            self._ends[place - 1] = self._ends.pop(place)
            del self._starts[place]
        elif touches_before:
            self._ends[place - 1] = index + 1
        elif touches_after:
            self._starts[place] = index
        else:
            self._starts.insert(place, index)
            self._ends.insert(place, index + 1)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The runs in order."""
        return list(zip(self._starts, self._ends, strict=True))

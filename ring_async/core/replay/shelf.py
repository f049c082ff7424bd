"""A shelf: open trajectories that share source, birth and columns, in the order in which batches take them.

Owns: that order, and the totals of one shelf. Does not own which shelf a trajectory lies on (`held_groups`), nor the
merge of several (`candidates`).
Invariant: an item that is added or removed costs O(log N), and so does the beginning of a walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sortedcontainers import SortedList

from ring_async.columns import Column
from ring_async.core.replay.held_group import HeldGroup

TIES: Final = 1 << 32
"""Ties lie on a circle of this many places."""


class Item(NamedTuple):
    """Trajectories of one group that a batch takes one after the other. Items compare by the fields before `group`.

    Attributes:
        is_whole: whether no batch has cut them; remainders come first.
        num_uses: how often they were used.
        rank: from `BufferRules.order`.
        tie: the group's place on the circle of ties.
        indices: of the trajectories within the group.
        tokens: loss tokens left in their present pass.
    """

    is_whole: bool
    num_uses: int
    rank: float
    tie: int
    group_id: str
    indices: tuple[int, ...]
    group: HeldGroup
    tokens: int


class ShelfKey(NamedTuple):
    """What all trajectories of one shelf share."""

    source: str
    birth: int
    columns: tuple[Column, ...]
    is_barred: bool


class Shelf:
    """Open trajectories in the order of choice: `num` of them, with `tokens` loss tokens left in their present pass."""

    def __init__(self) -> None:
        self.num = 0
        self.tokens = 0
        self._items: SortedList = SortedList()

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, item: Item) -> None:
        self._items.add(item)
        self.num += len(item.indices)
        self.tokens += item.tokens

    def remove(self, item: Item) -> None:
        self._items.remove(item)
        self.num -= len(item.indices)
        self.tokens -= item.tokens

    def in_turn(self, first_tie: int) -> Iterator[Item]:
        """The items in order; among equals, those from `first_tie` on come first, and those before it last.

        Ties are as good as random, and never by arrival, which would favour short responses. Another `first_tie` for
        each batch keeps one group from being the last of its equals again and again.
        """
        items = self._items
        after: tuple[object, ...] = ()
        while (first := next(items.irange(after), None)) is not None:
            equals = first[:3]
            yield from items.irange((*equals, first_tie), (*equals, TIES))
            yield from items.irange(equals, (*equals, first_tie))
            after = (*equals, TIES)

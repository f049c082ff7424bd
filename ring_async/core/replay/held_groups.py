"""The groups that batches may take from, kept in the order in which batches take them.

Owns: the groups of one shard by id, the totals over them, and their order of choice, by age, and by birth. Does not own
any decision (`buffer`, `batch_planning`), nor the merge of several shards' groups (`candidates`).
Invariants: totals and orders always equal what a walk over all groups would find; a change of one group costs O(log N),
and no question that a batch asks costs a walk over all groups.
Rejected: sorting all candidates for each plan. With 100,000 groups of 8 a plan of 256 groups took 1.9 s.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from sortedcontainers import SortedDict, SortedList

from ring_async.columns import Column
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.held_group import HeldGroup
from ring_async.core.replay.progress import GroupProgress, GroupRecord, all_loss_tokens
from ring_async.core.staleness import Lineage
from ring_async.core.verifier_epochs import is_admitted
from ring_async.types import EpochRules

TIES: Final = 1 << 32
"""Ties lie on a circle of this many places."""

Item = tuple[bool, int, float, int, str, tuple[int, ...], HeldGroup]
"""Trajectories of one group that a batch takes one after the other: whether no batch has cut them (remainders come
first), how often they were used, their rank by `BufferRules.order`, the group's tie, the group's id, their indices, and
the group."""


Age = tuple[int, int, str]
"""Version number of a group's oldest token, its arrival, its id."""

MIN_HEAP: Final = 1_024
"""Smaller heaps may keep what has closed."""


class ShelfKey(NamedTuple):
    """What all trajectories of one shelf share."""

    source: str
    birth: int
    columns: tuple[Column, ...]
    is_barred: bool


class Shelf:
    """Open trajectories in the order of choice; `num` of them, with `tokens` loss tokens left in their present pass."""

    def __init__(self) -> None:
        self.num = 0
        self.tokens = 0
        self._items: SortedList = SortedList()

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, item: Item) -> None:
        self._items.add(item)
        self._count(item, 1)

    def remove(self, item: Item, tokens: int) -> None:
        """Take away an item; `tokens`: what it counted for when it was added."""
        self._items.remove(item)
        self.num -= len(item[5])
        self.tokens -= tokens

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

    def _count(self, item: Item, by: int) -> None:
        self.num += by * len(item[5])
        self.tokens += by * tokens_of(item)


def tokens_of(item: Item) -> int:
    """The loss tokens left in the present pass of an item's trajectories."""
    group = item[6]
    return sum([group.num_tokens[index] - group.progress[index].position for index in item[5]])


class HeldGroups:
    """The groups of one shard.

        held = HeldGroups(rules, Lineage())
        held.put(record, progress)           # a group, or new verdicts of one that is there
        held.move(group_id, progress)        # a batch took some of its tokens
        held.trainable, held.num_open        # totals, always at hand
        held.born_before(3)                  # the open trajectories that version 2 or an older one sampled

    Args:
        rules, lineage, epoch_rules: what ages, order and totals depend on; `follow` changes them.
    """

    def __init__(
        self, rules: BufferRules, lineage: Lineage, epoch_rules: Mapping[str, EpochRules] | None = None
    ) -> None:
        self.rules = rules
        self.lineage = lineage
        self.epoch_rules = dict(epoch_rules or {})
        self.trainable = 0
        self.barred_trainable = 0
        self.num_open = 0
        self.shelves: dict[ShelfKey, Shelf] = {}
        self.barred: dict[str, None] = {}
        """Groups whose verdicts may not be trained on."""
        self.overused: dict[str, None] = {}
        """Groups with a trajectory that was used more often than rules that came later allow."""
        self._births: SortedDict = SortedDict()
        """How many shelves there are of each birth."""
        self._groups: dict[str, HeldGroup] = {}
        self._settling: dict[str, None] = {}
        self._placed: dict[str, list[tuple[ShelfKey, Item, int]]] = {}
        self._by_age: list[Age] = []
        """A heap: where each group stood when it came. Groups that closed leave it when they come to the top, or when
        they are the larger part."""
        self._longest: list[tuple[int, str]] = []
        """A heap, likewise: − the most loss tokens of a trajectory of a group, and the group's id."""

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._groups

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __getitem__(self, group_id: str) -> HeldGroup:
        return self._groups[group_id]

    def items(self) -> Iterator[tuple[str, HeldGroup]]:
        return iter(self._groups.items())

    # -- changes

    def put(self, record: GroupRecord, progress: GroupProgress) -> None:
        """Add a group, or replace the record and progress of one that is there."""
        group_id = record.header.group_id
        if (group := self._groups.get(group_id)) is not None:
            self._take_off(group_id, group)
            group.record, group.progress = record, progress
            group.count_births(self.lineage, self.rules.staleness_measure)
        else:
            group = self._groups[group_id] = HeldGroup(record, progress, all_loss_tokens(record))
            group.count_births(self.lineage, self.rules.staleness_measure)
            heapq.heappush(self._by_age, _age(group))
            heapq.heappush(self._longest, (-max(group.num_tokens), group_id))
        self._place(group_id, group)
        if len(self._by_age) > MIN_HEAP + 2 * len(self._groups):
            self._make_heaps()

    def move(self, group_id: str, progress: GroupProgress) -> None:
        """Note the new progress of a group."""
        group = self._groups[group_id]
        self._take_off(group_id, group)
        group.progress = progress
        self._place(group_id, group)

    def drop(self, group_id: str) -> None:
        """Forget a group."""
        self._take_off(group_id, self._groups[group_id])
        del self._groups[group_id]

    def follow(self, rules: BufferRules, lineage: Lineage, epoch_rules: Mapping[str, EpochRules]) -> None:
        """Put what ages, order and totals depend on in force. A walk over all groups, if any of it has changed."""
        if (rules, lineage, epoch_rules) == (self.rules, self.lineage, self.epoch_rules):
            return
        for group_id, group in self._groups.items():
            self._take_off(group_id, group)
        self.rules, self.lineage, self.epoch_rules = rules, lineage, dict(epoch_rules)
        for group_id, group in self._groups.items():
            group.count_births(lineage, rules.staleness_measure)
            self._place(group_id, group)
        self._make_heaps()

    # -- questions

    def born_before(self, birth: int) -> Iterator[tuple[HeldGroup, int]]:
        """The open trajectories that are older, by the configured measure: group and index."""
        if not self._births or self._births.peekitem(0)[0] >= birth:
            return
        for key, shelf in self.shelves.items():
            if key.birth < birth:
                for item in shelf:
                    for index in item[5]:
                        yield item[6], index

    def by_age(self) -> Iterator[tuple[HeldGroup, int]]:
        """The open trajectories, the one with the oldest token first, then by arrival: group and index."""
        looked_at: list[Age] = []
        again: list[Age] = []
        """Of groups that were looked at: their next oldest trajectories."""
        try:
            while self._by_age or again:
                is_first = not again or bool(self._by_age and self._by_age[0] < again[0])
                oldest, arrival, group_id = age = heapq.heappop(self._by_age if is_first else again)
                if not ((group := self._groups.get(group_id)) and group.is_open):
                    continue
                if is_first:
                    looked_at.append(age)
                is_later = False
                for index, one in enumerate(group.progress):
                    if one.is_open and group.oldest[index] == oldest:
                        yield group, index
                    is_later = is_later or (one.is_open and group.oldest[index] > oldest)
                if is_later:
                    following = min(number for number in group.oldest if number > oldest)
                    heapq.heappush(again, (following, arrival, group_id))
        finally:
            for age in looked_at:
                heapq.heappush(self._by_age, age)

    def settling(self) -> list[tuple[str, HeldGroup]]:
        """The groups, by arrival, with a trajectory that was trained to its end, or with none open: a checkpoint may
        end them.
        """
        found = [(group_id, self._groups[group_id]) for group_id in self._settling]
        return sorted(found, key=lambda one: one[1].record.arrival)

    @property
    def most_tokens(self) -> int:
        """The most loss tokens of a trajectory of any group that is open; 0 if none is."""
        heap = self._longest
        while heap and not ((group := self._groups.get(heap[0][1])) and group.is_open):
            heapq.heappop(heap)
        return -heap[0][0] if heap else 0

    # -- parts

    def _place(self, group_id: str, group: HeldGroup) -> None:
        group.take_stock(self.rules.max_reuse)
        header = group.record.header
        is_barred = not is_admitted(header, self.epoch_rules)
        self.trainable += group.trainable
        self.num_open += group.num_open
        if is_barred:
            self.barred[group_id] = None
            self.barred_trainable += group.trainable
        if group.is_used or not group.is_open:
            self._settling[group_id] = None
        if group.is_overused:
            self.overused[group_id] = None
        tie = zlib.crc32(group_id.encode())
        placed = []
        for (birth, is_whole, num_uses, rank), indices in self._alike(group).items():
            key = ShelfKey(header.prompt.source, birth, header.columns, is_barred)
            item = (is_whole, num_uses, rank, tie, group_id, tuple(indices), group)
            if (shelf := self.shelves.get(key)) is None:
                shelf = self.shelves[key] = Shelf()
                self._births[birth] = self._births.get(birth, 0) + 1
            shelf.add(item)
            placed.append((key, item, tokens_of(item)))
        self._placed[group_id] = placed

    def _take_off(self, group_id: str, group: HeldGroup) -> None:
        """Undo `_place`; the group's values are still those of that time."""
        self.trainable -= group.trainable
        self.num_open -= group.num_open
        if group_id in self.barred:
            del self.barred[group_id]
            self.barred_trainable -= group.trainable
        self._settling.pop(group_id, None)
        self.overused.pop(group_id, None)
        for key, item, tokens in self._placed.pop(group_id):
            shelf = self.shelves[key]
            shelf.remove(item, tokens)
            if not shelf.num:
                del self.shelves[key]
                self._births[key.birth] -= 1
                if not self._births[key.birth]:
                    del self._births[key.birth]

    def _make_heaps(self) -> None:
        """Make the heaps anew, without the groups that closed."""
        groups = [group for group in self._groups.values() if group.is_open]
        self._by_age = [_age(group) for group in groups]
        self._longest = [(-max(group.num_tokens), group.record.header.group_id) for group in groups]
        heapq.heapify(self._by_age)
        heapq.heapify(self._longest)

    def _alike(self, group: HeldGroup) -> dict[tuple[int, bool, int, float], list[int]]:
        """A group's open trajectories by birth and place in the order of choice."""
        order, record = self.rules.order, group.record
        alike: dict[tuple[int, bool, int, float], list[int]] = {}
        rank = float(record.arrival) if order == "fifo" else 0.0
        for index, one in enumerate(group.progress):
            if not one.is_open:
                continue
            if order == "oldest_version":
                rank = group.oldest[index]
            elif order == "abs_advantage":
                rank = -abs(record.advantages[index])
            alike.setdefault((group.births[index], not one.position, one.num_uses, rank), []).append(index)
        return alike


def _age(group: HeldGroup) -> Age:
    return min(group.oldest), group.record.arrival, group.record.header.group_id

"""What one batch may take, over the groups of all shards, in the order of choice and without a walk over all of it.

    HeldGroups of each shard ──shelves that are eligible──▶ Candidates ──one after the other──▶ token_budget

Owns: which shelves are eligible for a batch, the merge of their orders, and the interleaving of sources. Does not own
the order within a shelf (`held_groups`), nor how many are taken (`token_budget`).
Invariants: remainders come first, then the least used, then by `BufferRules.order`; ties are broken by group, as good
as at random. With shares, loss tokens of every prefix follow them. Totals cost a look at each shelf, a candidate costs
O(log N).
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ring_async.columns import MAX_COLUMNS, Column
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.held_group import HeldGroup
from ring_async.core.replay.held_groups import TIES, HeldGroups, Shelf, ShelfKey
from ring_async.core.replay.token_budget import Candidate

_Turn = tuple[bool, int, float, int, str, tuple[int, ...], HeldGroup, bool]
"""As `held_groups.Item`, with the tie counted from the batch's first one; and whether the trajectories may be cut."""


class Candidates:
    """The trajectories that one batch may take from.

        candidates = Candidates([own, mirrored], rules, salt=seed + plan_number, learner_number=7)
        candidates.tokens                   # how many loss tokens there are; no batch is possible with too few
        next(candidates.in_order()).group   # the group that comes first

    Passed over are trajectories beyond `max_staleness`, groups whose verdicts are barred, and groups with a column that
    is not among the agreed ones: most others have it with another dtype or width, since one array cannot hold both, or
    a batch cannot carry so many.

    Args:
        held: the groups of each shard.
        rules: of the choice.
        salt: another one for each batch, for breaking ties.
        learner_number: the learner's version number at consumption.
    """

    def __init__(self, held: Sequence[HeldGroups], rules: BufferRules, *, salt: int, learner_number: int) -> None:
        self.columns = agreed_columns(held)
        self._rules = rules
        self._learner_number = learner_number
        self._first_tie = zlib.crc32(f"{salt}:".encode())
        self._shelves: list[tuple[ShelfKey, Shelf]] = []
        self.num_unlike = 0
        """Trajectories passed over because of a column that differs from the others'."""
        for groups in held:
            for key, shelf in groups.shelves.items():
                if key.is_barred or learner_number - key.birth > rules.max_staleness:
                    continue
                if any(self.columns.get(column.name) != column for column in key.columns):
                    self.num_unlike += shelf.num
                    continue
                self._shelves.append((key, shelf))
        self.num = sum(shelf.num for _, shelf in self._shelves)
        self.num_rigid = sum(shelf.num for key, shelf in self._shelves if not self._can_split(key))
        self.tokens = sum(shelf.tokens for _, shelf in self._shelves)

    def in_order(self) -> Iterator[Candidate]:
        """All candidates in the order of choice."""
        return self._merged(self._shelves)

    def splittable(self) -> Iterator[Candidate]:
        """Those that may be cut, in the order of choice."""
        return self._merged([one for one in self._shelves if self._can_split(one[0])])

    def rigid(self) -> Iterator[Candidate]:
        """Those that may not be cut, in the order of choice."""
        return self._merged([one for one in self._shelves if not self._can_split(one[0])])

    def _can_split(self, key: ShelfKey) -> bool:
        return not self._rules.carries or self._learner_number - key.birth < self._rules.max_staleness

    def _merged(self, shelves: Sequence[tuple[ShelfKey, Shelf]]) -> Iterator[Candidate]:
        shares = self._rules.source_shares
        if shares is None:
            return self._in_turn(shelves)
        sources = {key.source for key, _ in shelves}
        queues = {s: self._in_turn([one for one in shelves if one[0].source == s]) for s in sorted(sources)}
        return interleave(queues, shares)

    def _in_turn(self, shelves: Iterable[tuple[ShelfKey, Shelf]]) -> Iterator[Candidate]:
        for *order, indices, group, can_split in heapq.merge(*(self._turns(key, shelf) for key, shelf in shelves)):
            source = group.record.header.prompt.source
            for index in indices:
                progress = group.progress[index]
                num_tokens = group.num_tokens[index] - progress.position
                yield Candidate(group, index, source, num_tokens, can_split, progress.position > 0, (*order, index))

    def _turns(self, key: ShelfKey, shelf: Shelf) -> Iterator[_Turn]:
        can_split = self._can_split(key)
        for is_whole, num_uses, rank, tie, group_id, indices, group in shelf.in_turn(self._first_tie):
            yield is_whole, num_uses, rank, (tie - self._first_tie) % TIES, group_id, indices, group, can_split


def interleave(queues: Mapping[str, Iterator[Candidate]], shares: Mapping[str, float]) -> Iterator[Candidate]:
    """Merge the sources' candidates; the next one is always of the source furthest behind its share of tokens.

    Remainders of all sources come first. A source without candidates leaves its part to the others; a source without a
    share comes last.
    """
    given = dict.fromkeys(queues, 0)
    heads = {source: head for source, queue in queues.items() if (head := next(queue, None)) is not None}
    remainders = []
    for source in list(heads):
        while source in heads and heads[source].is_remainder:
            remainders.append(heads[source])
            _advance(heads, queues, source)
    for one in sorted(remainders, key=lambda one: one.order):
        given[one.source] += one.num_loss_tokens
        yield one
    while heads:
        source = min(
            heads, key=lambda s: (given[s] / shares[s] if shares.get(s, 0) > 0 else float("inf"), -shares.get(s, 0), s)
        )
        one = heads[source]
        given[source] += one.num_loss_tokens
        _advance(heads, queues, source)
        yield one


def _advance(heads: dict[str, Candidate], queues: Mapping[str, Iterator[Candidate]], source: str) -> None:
    if (following := next(queues[source], None)) is None:
        del heads[source]
    else:
        heads[source] = following


def agreed_columns(held: Iterable[HeldGroups]) -> dict[str, Column]:
    """For each optional column, by name, the description that the groups with most tokens left share; of more than
    `MAX_COLUMNS` names, those with most tokens.
    """
    tokens: dict[Column, int] = {}
    for groups in held:
        for key, shelf in groups.shelves.items():
            for column in key.columns:
                tokens[column] = tokens.get(column, 0) + shelf.tokens
    agreed = {column.name: column for column in sorted(tokens, key=tokens.__getitem__)}
    most = sorted(agreed.values(), key=tokens.__getitem__, reverse=True)[:MAX_COLUMNS]
    return {column.name: column for column in most}

"""What a shard tells the planner about its groups: only what has changed since the planner last heard.

    ReplayBuffer ──what changed──▶ OfferLog ──Offer, a portion at a time──▶ Mirror ──HeldGroups──▶ the planner's plan

Owns: the numbering of changes, the portions, and the planner's copy of another shard's groups. Does not own the groups
(`held_groups`), the messages, or when they are sent (`actors.replay.planner`).
Invariants: a mirror that took in offers until none was left holds the open groups of its shard at that moment. A mark
that the log does not know (the shard or the planner restarted, or something was lost) begins anew. An offer holds about
`MAX_OFFER_BYTES` at most, whatever the shard holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from sortedcontainers import SortedDict

from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.core.staleness import Lineage
from ring_async.types import EpochRules

MAX_OFFER_BYTES: Final = 4 << 20
_TRAJECTORY_BYTES: Final = 256
"""A trajectory's header and progress on the wire, about."""


class OfferMark(msgspec.Struct, frozen=True):
    """How much of a shard's changes is known: those of one opening of the shard up to a number."""

    stream: str = ""
    number: int = 0


class OfferedGroup(msgspec.Struct, frozen=True, array_like=True):
    """A group that changed. `progress` None: no batch may take from it any more. `record` None: as it was offered."""

    group_id: str
    progress: GroupProgress | None = None
    record: GroupRecord | None = None


class Offer(msgspec.Struct, frozen=True):
    """The changes up to `mark`. `is_whole`: they begin from nothing. `has_more`: there are others after the mark."""

    mark: OfferMark
    groups: tuple[OfferedGroup, ...]
    is_whole: bool = False
    has_more: bool = False


class OfferLog:
    """The changes of one shard's groups, by number.

        log.note("a", is_new=True)             # change 1: group `a` came
        log.offer(held, OfferMark())           # `a`, record and progress; the mark is now change 1
        log.note("a")                          # change 2: a batch took tokens of `a`
        log.offer(held, mark)                  # `a`, its progress alone

    Args:
        stream: another one for each opening of the shard.
    """

    def __init__(self, stream: str) -> None:
        self._opening = stream
        self._num_streams = 0
        """An offer from nothing begins a stream of its own, so that marks of before are no marks in it."""
        self._newest = 0
        self._forgotten = 0
        """Groups that were taken away by changes up to this one are not known any more."""
        self._told = 0
        """The newest change that an offer of this stream has held."""
        self._numbers: dict[str, _Numbers] = {}
        self._order: SortedDict = SortedDict()
        """Group ids by the number of their newest change."""
        self._gone: deque[tuple[int, str]] = deque()
        """Groups that nothing may be taken from any more, though they were offered: number of that change, and id."""

    def note(self, group_id: str, *, is_open: bool = True, is_new: bool = False) -> None:
        """Note that a group changed.

        Args:
            group_id: of the group.
            is_open: whether a batch may take from it.
            is_new: whether its record changed, too.
        """
        before = self._numbers.pop(group_id, _Numbers(0, 0, 0))
        if before.newest:
            del self._order[before.newest]
        is_told = 0 < before.due <= self._told
        if not is_open and not is_told:
            return
        self._newest += 1
        new = self._newest
        record = before.record if is_told and not is_new else new
        self._numbers[group_id] = _Numbers(new, record, before.due if is_told else new)
        self._order[new] = group_id
        if not is_open:
            self._gone.append((self._newest, group_id))

    def offer(self, held: HeldGroups, since: OfferMark, *, max_bytes: int = MAX_OFFER_BYTES) -> Offer:
        """The oldest changes after a mark, as many as fit. `held`: the shard's groups as they are."""
        is_whole = since.stream != self._stream or not self._forgotten <= since.number <= self._told
        known = last = 0 if is_whole else since.number
        self._forget_gone(self._newest if is_whole else known)
        if is_whole:
            self._num_streams += 1
            self._forgotten = self._told = 0
        if is_whole or known < self._told:
            self._records_are_due(known, is_whole)
        groups: list[OfferedGroup] = []
        num_bytes = 0
        for change in self._order.irange(known + 1):
            if num_bytes >= max_bytes:
                break
            groups.append(self._offered(held, self._order[change], known))
            num_bytes += _size(groups[-1])
            last = change
        self._told = max(self._told, last)
        has_more = bool(self._order) and last < self._order.peekitem()[0]
        return Offer(OfferMark(self._stream, last), tuple(groups), is_whole, has_more)

    @property
    def _stream(self) -> str:
        return f"{self._opening}.{self._num_streams}"

    def _records_are_due(self, known: int, is_whole: bool) -> None:
        """Tell records again that the planner has not heard: it begins from nothing, or an answer was lost.

        A change of its progress since would hide that the record before it never arrived.
        """
        for change in self._order.irange(known + 1):
            group_id = self._order[change]
            numbers = self._numbers[group_id]
            record = numbers.newest if numbers.record > known else numbers.record
            due = numbers.newest if is_whole else numbers.due
            self._numbers[group_id] = _Numbers(numbers.newest, record, due)

    def _forget_gone(self, until: int) -> None:
        while self._gone and self._gone[0][0] <= until:
            change, group_id = self._gone.popleft()
            del self._order[change], self._numbers[group_id]
            self._forgotten = change

    def _offered(self, held: HeldGroups, group_id: str, known: int) -> OfferedGroup:
        if group_id not in held or not (group := held[group_id]).is_open:
            return OfferedGroup(group_id)
        is_record_known = self._numbers[group_id].record <= known
        return OfferedGroup(group_id, group.progress, None if is_record_known else planning_record(group.record))


class _Numbers(NamedTuple):
    """What an offer log knows of one group, as numbers of changes.

    Attributes:
        newest: its newest change.
        record: the newest change of its record.
        due: the change by which this stream was first to tell of it.
    """

    newest: int
    record: int
    due: int


class Mirror:
    """The planner's copy of another shard's open groups, and how much of the shard's changes it knows.

        while True:
            mirror.take_in(offer)           # the answer to a question with `mirror.mark`
            if not offer.has_more: break
        mirror.groups                       # for `ReplayBuffer.plan`

    Args:
        rules, lineage, epoch_rules: the planner's; `follow` changes them.
    """

    def __init__(
        self, rules: BufferRules, lineage: Lineage, epoch_rules: Mapping[str, EpochRules] | None = None
    ) -> None:
        self.mark = OfferMark()
        self.groups = HeldGroups(rules, lineage, epoch_rules)

    def follow(self, rules: BufferRules, lineage: Lineage, epoch_rules: Mapping[str, EpochRules]) -> None:
        """See `HeldGroups.follow`."""
        self.groups.follow(rules, lineage, epoch_rules)

    def take_in(self, offer: Offer) -> None:
        """Apply the changes that follow on `mark`."""
        if offer.is_whole:
            before = self.groups
            self.groups = HeldGroups(before.rules, before.lineage, before.epoch_rules)
        for one in offer.groups:
            if one.progress is None:
                if one.group_id in self.groups:
                    self.groups.drop(one.group_id)
            elif one.record is not None:
                self.groups.put(one.record, one.progress)
            else:
                self.groups.move(one.group_id, one.progress)
        self.mark = offer.mark


def planning_record(record: GroupRecord) -> GroupRecord:
    """The record without the prompt's text and metadata, which planning does not need."""
    header = record.header
    prompt = msgspec.structs.replace(header.prompt, text="", metadata={})
    return msgspec.structs.replace(record, header=msgspec.structs.replace(header, prompt=prompt))


def _size(offered: OfferedGroup) -> int:
    """The bytes of an offered group on the wire, about."""
    positions = offered.record.loss_positions if offered.record is not None else ()
    return _TRAJECTORY_BYTES * max(1, len(offered.progress or ())) + sum(len(one) for one in positions if one)

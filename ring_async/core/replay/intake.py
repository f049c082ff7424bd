"""Intake of scored groups: each is buffered, dropped, or recognised as a duplicate.

    scored groups, the buffer ──decide_intake──▶ Intake: what to commit, what to report, what to answer

Owns: that decision. Does not own making it durable (`storage.replay_shard`), nor the advantages
(`core.advantages`).
Invariants: the buffer is read, never changed. Of several copies of a group the first is kept, with one exception:
if the verdict of a group may no longer be trained on, a copy with a verdict by an admitted epoch replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from ring_async.core.advantages import GroupAdvantages
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.progress import Change, GroupProgress, GroupRecord, make_record
from ring_async.core.replay.transitions import UNJUDGED, dropped, states_of
from ring_async.trajectory_states import EndCause, TrajectoryState
from ring_async.types import Group, GroupHeader

Score = Callable[[GroupHeader], GroupAdvantages]
"""Computes a group's advantages. It may be stateful (`RewardSpread`), so it is called once for each group taken in."""


class IntakeOutcome(StrEnum):
    """The outcome for one group that arrived."""

    BUFFERED = "buffered"
    DROPPED = "dropped"
    """No response of the group can be trained."""
    DUPLICATE = "duplicate"
    """The group is held, or ended, already."""


class Receipt(msgspec.Struct, frozen=True):
    """The answer for one group that arrived."""

    group_id: str
    outcome: IntakeOutcome


@dataclass(frozen=True, slots=True)
class Admitted:
    """A group to store: its record, its progress, and the group as it arrived."""

    group: Group
    record: GroupRecord
    progress: GroupProgress


@dataclass(slots=True)
class Intake:
    """The result of taking in some groups.

    Attributes:
        receipts: one for each group that arrived, in order.
        admitted: groups to store, by id.
        ended: progress of groups that arrived and ended at once, by id; their payload is not stored.
        judged_again: ids of groups, among those admitted or changed, whose verdict was replaced.
        change: the change to groups that were held before.
        moved: new states of trajectories, for the ledger.

    Example:
        Groups `a` (rewards 1, 0), `b` (rewards 1, 1) and `a` once more arrive. The receipts say buffered, dropped,
        duplicate; `admitted` holds `a`, `ended` holds `b` as `dropped(no_signal)`, and `moved` names all four
        trajectories.
    """

    receipts: list[Receipt] = field(default_factory=list)
    admitted: dict[str, Admitted] = field(default_factory=dict)
    ended: dict[str, GroupProgress] = field(default_factory=dict)
    judged_again: set[str] = field(default_factory=set)
    change: Change = field(default_factory=lambda: Change({}))
    moved: list[TrajectoryState] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.admitted or self.ended or self.judged_again)


def decide_intake(
    groups: Sequence[Group], buffer: ReplayBuffer, known: Collection[str], score: Score, *, cover: int = 0
) -> Intake:
    """Decide on scored groups that arrived together.

    Args:
        groups: in the order of their arrival.
        buffer: the groups held; it is not changed.
        known: ids, among those of `groups`, that are held or have ended.
        score: computes a group's advantages.
        cover: newest plan number covered by a checkpoint, if that was not carried out yet; else 0. Payloads that
            only covered batches needed are released in the same commit.

    Raises:
        ValueError: a group has no finite rewards.
    """
    intake = Intake()
    next_arrival = buffer.next_arrival
    for group in groups:
        group_id = group.header.group_id
        is_again = buffer.awaits(group.header) and group_id not in intake.judged_again
        if not is_again and (group_id in known or group_id in intake.admitted or group_id in intake.ended):
            intake.receipts.append(Receipt(group_id, IntakeOutcome.DUPLICATE))
            continue
        arrival = buffer.record(group_id).arrival if is_again else next_arrival
        _take_in(group, intake, buffer, score(group.header), arrival, is_again=is_again)
        next_arrival += group_id in intake.admitted and not is_again
    if intake.is_empty:
        return intake
    if cover:
        intake.change = buffer.cover(cover)
    _release_judged_again(intake)
    intake.moved += intake.change.moved
    return intake


def _take_in(
    group: Group, intake: Intake, buffer: ReplayBuffer, scored: GroupAdvantages, arrival: int, *, is_again: bool
) -> None:
    header = group.header
    record = make_record(header, scored.advantages, group.loss_mask, arrival)
    if scored.has_signal:
        progress = buffer.admit(record, scored.is_masked)
    else:
        over = dropped(EndCause.NO_SIGNAL)
        progress = tuple([UNJUDGED if trajectory.failure else over for trajectory in header.trajectories])
    if is_again:
        progress = buffer.judged_again(header.group_id, progress)
        intake.judged_again.add(header.group_id)
    intake.moved += states_of(header, progress)
    if any(one.is_open for one in progress):
        intake.admitted[header.group_id] = Admitted(group, record, progress)
        intake.receipts.append(Receipt(header.group_id, IntakeOutcome.BUFFERED))
    else:
        intake.ended[header.group_id] = progress
        intake.receipts.append(Receipt(header.group_id, IntakeOutcome.DROPPED))


def _release_judged_again(intake: Intake) -> None:
    """Release the payload of a held group if its new verdict leaves nothing to train."""
    over = {group_id: intake.ended.pop(group_id) for group_id in intake.judged_again if group_id in intake.ended}
    if over:
        released = tuple(dict.fromkeys((*intake.change.released, *over)))
        intake.change = replace(intake.change, progress=intake.change.progress | over, released=released)

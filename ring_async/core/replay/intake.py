"""What becomes of groups that arrive scored: buffered, dropped, or nothing where they are held already.

    scored groups, the buffer as it is ──decide_intake──▶ Intake: what to commit, what to report, what to answer

Owns: that decision. Does not own making it durable (`storage.replay_shard`), nor what a group is worth (`advantages`).
Invariants: the buffer is only looked at. The first copy of a group wins, and later copies change nothing, with one
exception: a group whose verdict may not be trained on waits for a verdict by an epoch that may, which replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from ring_async.core.advantages import GroupAdvantages
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.progress import Change, GroupProgress, GroupRecord, make_record
from ring_async.core.replay.transitions import dropped, states_of
from ring_async.trajectory_states import EndCause, TrajectoryState
from ring_async.types import Group, GroupHeader

Score = Callable[[GroupHeader], GroupAdvantages]
"""What a group is worth. It may remember groups that it has seen, so it is asked once for each group taken in."""


class IntakeOutcome(StrEnum):
    """What became of one group that arrived."""

    BUFFERED = "buffered"
    DROPPED = "dropped"
    """No response of it can be trained."""
    DUPLICATE = "duplicate"
    """The group is held, or ended, already."""


class Receipt(msgspec.Struct, frozen=True):
    """The answer for one group that arrived."""

    group_id: str
    outcome: IntakeOutcome


@dataclass(frozen=True, slots=True)
class Admitted:
    """A group to store: under a new record and progress, with the arrays it arrived with."""

    group: Group
    record: GroupRecord
    progress: GroupProgress


@dataclass(slots=True)
class Intake:
    """Everything that taking in some groups does.

    Attributes:
        receipts: one for each group that arrived, in order.
        admitted: groups to store, by id.
        ended: progress of groups that arrived and ended at once, by id; they have no payload here.
        judged_again: ids of groups, among those admitted or changed, whose verdict was replaced.
        change: what becomes of groups that were held before.
        moved: what the ledger must hear.

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
        buffer: what is held; left alone.
        known: ids, among those of `groups`, that are held or have ended.
        score: what a group is worth.
        cover: the newest plan number that a checkpoint covers and that was not followed yet; 0: none. What only
            covered batches needed is released in the same commit.

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
        progress = (dropped(EndCause.NO_SIGNAL),) * len(header.trajectories)
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
    """A held group of which the new verdict leaves nothing to train: its payload is released."""
    over = {group_id: intake.ended.pop(group_id) for group_id in intake.judged_again if group_id in intake.ended}
    if over:
        released = tuple(dict.fromkeys((*intake.change.released, *over)))
        intake.change = replace(intake.change, progress=intake.change.progress | over, released=released)

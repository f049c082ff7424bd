"""The stored records of buffered groups, and the progress of their trajectories.

Owns: these records, their loss-token arithmetic, and `Change`, in which decisions travel from `buffer` to the store.
Does not own the decisions.
Invariants: a `GroupRecord` never changes; a `Progress` is replaced, never mutated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from ring_async.batches import BatchPlan, TokenInterval
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.staleness import Lineage
from ring_async.trajectory_states import HELD_STATES, EndCause, TrajectoryState, TrajectoryStatus
from ring_async.types import EpochRules, GroupHeader, Int32, UInt8


class GroupRecord(msgspec.Struct, frozen=True):
    """The immutable part of a buffered group, stored beside its payload.

    Attributes:
        advantages: one per trajectory, frozen when it was scored.
        arrival: order of commits.
        loss_positions: per trajectory, int32 bytes of the positions that carry loss, or None where all do.
    """

    header: GroupHeader
    advantages: tuple[float, ...]
    arrival: int
    loss_positions: tuple[bytes | None, ...]


class Progress(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The progress of one trajectory in training.

    Attributes:
        num_uses: completed passes over all of its loss tokens.
        position: loss tokens trained in the present pass.
        last_plan: number of the last batch that used it; 0: none.
        state: its state in the ledger: buffered, consumed, or how it ended.
        is_open: whether it may still be trained.
    """

    num_uses: int = 0
    position: int = 0
    last_plan: int = 0
    state: TrajectoryStatus = TrajectoryStatus.BUFFERED
    cause: EndCause = EndCause.NONE
    is_open: bool = True


GroupProgress = tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A decision's change to the buffer, to be made durable before `apply`.

    Attributes:
        progress: new progress of the groups that change, by id.
        released: groups whose payload may be deleted now.
        moved: new states of trajectories, for the ledger.
        plan_number: the batch that the change belongs to, if any.
        entry: the log entry of that batch, if this change plans it.
        covered: the newest plan number that a checkpoint covers, if it changed.
        lineage: the learner's lineage, if it changed.
        epoch_rules: which verifier epochs may be trained on, by verifier, if that changed.
    """

    progress: dict[str, GroupProgress]
    released: tuple[str, ...] = ()
    moved: tuple[TrajectoryState, ...] = ()
    plan_number: int | None = None
    entry: PlanEntry | None = None
    covered: int | None = None
    lineage: Lineage | None = None
    epoch_rules: dict[str, EpochRules] | None = None

    @property
    def plan(self) -> BatchPlan | None:
        return self.entry.plan if self.entry else None

    @property
    def is_empty(self) -> bool:
        said = (self.plan_number, self.covered, self.lineage, self.epoch_rules)
        return not (self.progress or self.released) and all(one is None for one in said)


def make_record(header: GroupHeader, advantages: Iterable[float], loss_mask: UInt8, arrival: int) -> GroupRecord:
    """A group's record from its header, advantages `[K]` and loss mask `[N]`."""
    if b"\0" not in loss_mask.tobytes():  # a third of the time of `all`
        return GroupRecord(header, tuple(advantages), arrival, (None,) * len(header.trajectories))
    positions: list[bytes | None] = []
    start = 0
    for trajectory in header.trajectories:
        mask = loss_mask[start : start + trajectory.num_tokens]
        positions.append(None if mask.all() else np.flatnonzero(mask).astype(np.int32).tobytes())
        start += trajectory.num_tokens
    return GroupRecord(header, tuple(advantages), arrival, tuple(positions))


def all_loss_tokens(record: GroupRecord) -> tuple[int, ...]:
    """The number of loss tokens of each trajectory."""
    if record.loss_positions.count(None) == len(record.loss_positions):
        return tuple([trajectory.num_tokens for trajectory in record.header.trajectories])
    return tuple(
        trajectory.num_tokens if positions is None else len(positions) // 4
        for trajectory, positions in zip(record.header.trajectories, record.loss_positions, strict=True)
    )


def num_loss_tokens(record: GroupRecord, index: int) -> int:
    """The number of loss tokens of one trajectory."""
    positions = record.loss_positions[index]
    return record.header.trajectories[index].num_tokens if positions is None else len(positions) // 4


def count_loss_tokens(record: GroupRecord, index: int, interval: TokenInterval) -> int:
    """The number of loss tokens within an interval, counted from the loss mask."""
    if (raw := record.loss_positions[index]) is None:
        return interval.end - interval.start
    positions: Int32 = np.frombuffer(raw, np.int32)
    return int(np.count_nonzero((positions >= interval.start) & (positions < interval.end)))


def token_interval(record: GroupRecord, index: int, start: int, end: int) -> TokenInterval:
    """The interval of response tokens that holds loss tokens `[start, end)`; the intervals of one pass tile the
    response.
    """
    trajectory = record.header.trajectories[index]
    raw = record.loss_positions[index]
    if raw is None:
        return TokenInterval(trajectory.trajectory_id, start, end)
    positions: Int32 = np.frombuffer(raw, np.int32)
    first = 0 if start == 0 else int(positions[start - 1]) + 1
    last = trajectory.num_tokens if end == positions.size else int(positions[end - 1]) + 1
    return TokenInterval(trajectory.trajectory_id, first, last)


def is_finished(progress: GroupProgress, covered: int) -> bool:
    """Whether no token of the group can be trained, now or again after a learner's crash, and every state is final."""
    before = None
    for one in progress:
        if one is before:
            continue
        if one.is_open or one.state in HELD_STATES or one.last_plan > covered:
            return False
        before = one
    return True

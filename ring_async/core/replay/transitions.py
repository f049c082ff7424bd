"""The transitions of one trajectory's progress: taken in, trained further, ended.

Owns: the progress that follows from a decision. Does not own the decisions (`buffer`, `intake`).
Invariants: a trajectory that has ended stays ended; the state says what became of its last token.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ring_async.core.replay.held_group import HeldGroup
from ring_async.core.replay.progress import GroupProgress, GroupRecord, Progress
from ring_async.trajectory_states import EndCause, TrajectoryState, TrajectoryStatus
from ring_async.types import GroupHeader, TrajectoryHeader

OPEN: Final = Progress()
"""Progress of a trajectory that no batch has used."""


def dropped(cause: EndCause) -> Progress:
    """The progress of a trajectory that is dropped on arrival."""
    return Progress(state=TrajectoryStatus.DROPPED, cause=cause, is_open=False)


UNJUDGED: Final = Progress(state=TrajectoryStatus.FAILED, cause=EndCause.UNJUDGED, is_open=False)
"""Progress of a response that the verifier could not judge although it judged others of the group."""


def arrived(trajectory: TrajectoryHeader, num_loss_tokens: int, longest: int, *, is_masked: bool) -> Progress:
    """The first progress of a response: open, or ended at once. `longest`: tokens that a row has for it."""
    if trajectory.failure:
        return UNJUDGED
    if is_masked:
        return dropped(EndCause.TRUNCATED)
    if not num_loss_tokens:
        return dropped(EndCause.NO_LOSS_TOKENS)
    return dropped(EndCause.ROW_TOO_SHORT) if trajectory.num_tokens > longest else OPEN


def states_of(header: GroupHeader, progress: GroupProgress) -> list[TrajectoryState]:
    """The state and reward of every trajectory of a group, as reported to the ledger."""
    return [
        TrajectoryState(trajectory.trajectory_id, one.state, one.cause, trajectory.num_tokens, trajectory.reward)
        for trajectory, one in zip(header.trajectories, progress, strict=True)
    ]


def untrained_tokens(entry: HeldGroup, index: int, progress: Progress) -> int:
    """Loss tokens that no batch has trained."""
    return 0 if progress.num_uses else entry.num_tokens[index] - progress.position


def advanced(
    entry: HeldGroup, index: int, num_tokens: int, plan_number: int, max_reuse: int, *, carries: bool
) -> Progress:
    """Progress of a trajectory after `num_tokens` more of its loss tokens were taken.

    Raises:
        ValueError: the trajectory is not open, or has fewer loss tokens left.
    """
    before = entry.progress[index]
    position = before.position + num_tokens
    if not before.is_open or position > entry.num_tokens[index]:
        raise ValueError(
            f"batch {plan_number} takes {num_tokens} loss tokens of {entry.record.header.group_id}/{index}, "
            f"which is {before.state} at {before.position} of {entry.num_tokens[index]}"
        )
    after = msgspec.structs.replace(before, position=position, last_plan=plan_number, state=TrajectoryStatus.CONSUMED)
    if position == entry.num_tokens[index]:
        num_uses = before.num_uses + 1
        return msgspec.structs.replace(after, position=0, num_uses=num_uses, is_open=num_uses < max_reuse)
    if carries:
        return after
    return ended_as(entry, index, after, TrajectoryStatus.DROPPED, EndCause.LEFTOVER)


def ended_as(entry: HeldGroup, index: int, progress: Progress, state: TrajectoryStatus, cause: EndCause) -> Progress:
    """The progress of a trajectory that ends; if all its tokens were trained, its state stays."""
    if not untrained_tokens(entry, index, progress):
        return msgspec.structs.replace(progress, is_open=False)
    return msgspec.structs.replace(progress, is_open=False, state=state, cause=cause)


def moved_to(record: GroupRecord, index: int, progress: Progress, num_tokens: int | None = None) -> TrajectoryState:
    """The new state of a trajectory, as reported to the ledger; `num_tokens` None: all tokens of the response."""
    trajectory = record.header.trajectories[index]
    tokens = trajectory.num_tokens if num_tokens is None else num_tokens
    return TrajectoryState(trajectory.trajectory_id, progress.state, progress.cause, tokens)

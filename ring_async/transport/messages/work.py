"""Messages about groups: reserved, generated, scored, moved, failed."""

from __future__ import annotations

from ring_async.core.replay.partials import AppendAnswer
from ring_async.records.figures import BufferTotals
from ring_async.trajectory_states import TrajectoryState
from ring_async.transport.messages.base import Message
from ring_async.types import GroupHeader, PolicyVersion, Reservation


class GroupGenerated(Message, frozen=True):
    """K responses to judge. Buffers: `Group.buffers`. `is_rescore`: replay holds them, scored by a former epoch."""

    group: GroupHeader
    is_rescore: bool = False


class GroupScored(Message, frozen=True):
    """K responses, each with a reward by one verifier epoch. Buffers: `Group.buffers`."""

    group: GroupHeader


class ReserveGroups(Message, frozen=True):
    """A rollout asks for work."""

    num_groups: int
    policy_version: PolicyVersion | None


class GroupsReserved(Message, frozen=True):
    """May be empty; then `reason` says what admission waits for."""

    reservations: tuple[Reservation, ...]
    reason: str = ""


class RenewLeases(Message, frozen=True):
    group_ids: tuple[str, ...]


class LeasesRenewed(Message, frozen=True):
    """`lost`: leases that had run out and belong to somebody else now; stop working on them."""

    lost: tuple[str, ...] = ()


class GroupsFailed(Message, frozen=True):
    """Groups whose reservation returns: `cause` is an infrastructure fault or a verifier's failure, in a word or two;
    `detail` is for people.
    """

    group_ids: tuple[str, ...]
    cause: str
    detail: str = ""


class PromptRefused(Message, frozen=True):
    """The sender's engine can never take the prompt of this group, and why."""

    group_id: str
    reason: str


class HandOverPartials(Message, frozen=True):
    """A rollout's unfinished responses since its last handover, to the shard that keeps their groups.

    `writer` is the sender with its incarnation. Buffers: `bundle_partials`.
    """

    writer: str


class PartialsAppended(Message, frozen=True):
    """The answers to `HandOverPartials`, one for each piece."""

    answers: tuple[AppendAnswer, ...]


class ReadPartials(Message, frozen=True):
    """`writer` goes on with a group that was reserved before: from now on it alone may hand over pieces of it."""

    group_id: str
    writer: str


class PartialsRead(Message, frozen=True):
    """The held parts of the group's unfinished responses. Buffers: `bundle_partials`, one piece for each response."""

    group_id: str


class TrajectoriesMoved(Message, frozen=True):
    """Replay tells the ledger what became of trajectories, after its own durable commit."""

    states: tuple[TrajectoryState, ...]


class BufferReported(Message, frozen=True):
    """A replay shard reports how much it holds, for admission and for people."""

    totals: BufferTotals

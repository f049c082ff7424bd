"""Messages about the fleet: who is part of it, who lives, what runs, pause and end."""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.core.fleet.states import ActorState, WaitCause
from ring_async.core.roster import ActorSpec, Role
from ring_async.records.figures import ActorFigures
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.types import (
    EpochRules,
    VerifierInForce,
)


class Member(msgspec.Struct, frozen=True):
    """One live actor, as the others need to know it."""

    actor_id: str
    role: Role
    incarnation: int
    pid: int
    host: str
    control_endpoint: str
    data_endpoint: str = ""
    metrics_endpoint: str = ""


class Holding(msgspec.Struct, frozen=True):
    """What a member has in hand when it registers. A restarted controller adopts it: nothing of it is issued, numbered
    or forgotten again.
    """

    group_ids: tuple[str, ...] = ()
    """The reserved groups that a rollout generates or delivers."""
    learner_incarnation: int | None = None
    """The incarnation under which a learner publishes; None for a learner that has none yet, and for other roles."""
    weights: WeightsAnnouncement | None = None
    """A learner's newest publication."""


class Register(Message, frozen=True):
    member: Member
    holding: Holding = Holding()


class MembersMark(msgspec.Struct, frozen=True, order=True):
    """A moment in the list of members: so many changes of it by one incarnation of the controller."""

    incarnation: int = 0
    number: int = 0


class Registered(Message, frozen=True):
    """The answer to `Register`: the present members, and how the run differs from its configuration."""

    members: tuple[Member, ...]
    weights: WeightsAnnouncement | None
    is_paused: bool
    resume_from: str
    """Checkpoint folder to restore from, or empty."""
    learner_incarnation: int
    verifiers: tuple[VerifierInForce, ...] = ()
    """The verifiers in force that differ from the configuration's."""
    epoch_rules: dict[str, EpochRules] = {}
    source_verifiers: dict[str, str] = {}
    """Sources added since the start, and their verifiers."""
    knobs: dict[str, Any] = {}
    """Settings changed since the start."""
    skipped_batches: dict[str, str] = {}
    """Plan numbers of batches that failed too often in the learner, and why."""
    members_mark: MembersMark = MembersMark()


class Heartbeat(Message, frozen=True):
    """Sent every second from the event loop, whatever the actor computes."""

    actor_id: str
    incarnation: int
    state: ActorState
    waiting_for: str = ""
    waited_s: float = 0.0
    counters: ActorFigures | None = None
    wait_cause: WaitCause = WaitCause.NONE


class HeartbeatSeen(Message, frozen=True):
    """`is_known` false: the controller has no such member (it restarted, or counted the actor dead); register again."""

    is_known: bool


class RunFailed(Message, frozen=True):
    """An actor met an error the run must end with; `kind` is the error's class."""

    actor_id: str
    kind: str
    detail: str


class ActorExit(msgspec.Struct, frozen=True):
    """A process that ended, and the known cause."""

    actor_id: str
    incarnation: int
    cause: str
    is_host_lost: bool = False
    """Whether the process ended because its host was lost."""


class ActorWaiting(msgspec.Struct, frozen=True):
    """A wanted process that cannot start yet, and what it waits for: a host, or room on one."""

    actor_id: str
    incarnation: int
    whom: str


class ReportFleet(Message, frozen=True):
    """The launcher says what runs and what has ended since; the answer is what should run."""

    exits: tuple[ActorExit, ...]
    waiting: tuple[ActorWaiting, ...] = ()
    """All actors that wait now."""


class FleetWanted(Message, frozen=True):
    actors: tuple[ActorSpec, ...]
    kept: tuple[str, ...] = ()
    """Ids whose places are kept: of `actors`, and of those whose restart is still delayed."""
    may_start: bool = True
    """False while the run ends: what runs of `actors` goes on, and nothing is started."""
    is_finished: bool = False
    failure: str = ""
    """Why the run failed, or empty."""


class MembersChanged(Message, frozen=True):
    """What has changed in the list of members from `since` to `mark`; without `since`, the whole list at `mark`.

    Differences may overlap: one that begins before what its receiver knows is applied all the same.
    """

    members: tuple[Member, ...]
    """The members that joined or changed, as they are now."""
    gone: tuple[str, ...] = ()
    since: MembersMark | None = None
    mark: MembersMark = MembersMark()


class MembersMissed(Message, frozen=True):
    """The answer to `MembersChanged` of a member that lacks changes before it: it needs the whole list."""


class Pause(Message, frozen=True):
    """Stop taking new work; what is under way may finish."""


class Resume(Message, frozen=True):
    pass


class Shutdown(Message, frozen=True):
    """Finish within `deadline_s`: acknowledge or hand back what is held, then exit."""

    deadline_s: float

"""Everything actors say to each other, as typed structs.

Events are in the past tense, commands in the imperative. A message is a MessagePack header; arrays travel beside it as
raw buffers, in the order that `ring_async.types` gives for the struct named in the message.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.core.plan_log import PlanPart
from ring_async.core.staleness import Lineage
from ring_async.types import (
    EpochRules,
    GroupHeader,
    PolicyVersion,
    Reservation,
    TrajectoryState,
    VerifierInForce,
)

SCHEMA_VERSION = 2
"""Grows with every incompatible change of a message; receivers refuse other versions."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Root of all messages: the tag is the class name."""


# -- data: rollout → reward → replay → learner


class GroupGenerated(Message, frozen=True):
    """K responses to judge. Buffers: `Group.buffers`. `is_rescore`: replay holds them, scored by a former epoch."""

    group: GroupHeader
    is_rescore: bool = False


class GroupScored(Message, frozen=True):
    """K responses, each with a reward by one verifier epoch. Buffers: `Group.buffers`."""

    group: GroupHeader


class RequestBatch(Message, frozen=True):
    """The learner asks for batch `plan_number`; asking again for a planned number returns the same plan."""

    plan_number: int
    policy_version: PolicyVersion
    wait_s: float
    """How long replay may hold the question before it answers `BatchNotReady`."""


class BatchReady(Message, frozen=True):
    """Buffers: as `batch_wire` lays out the batch, the plan first."""

    plan_number: int


class BatchNotReady(Message, frozen=True):
    reason: str


# -- data: between replay-0, which plans, and the other shards of replay


class OfferGroups(Message, frozen=True):
    """The planner asks what batch `plan_number` may take, at the learner's version and lineage.

    `epoch_rules` are in force from this batch on.
    """

    plan_number: int
    policy_version: PolicyVersion
    lineage: Lineage
    epoch_rules: dict[str, EpochRules] = {}


class GroupsOffered(Message, frozen=True):
    """`last_plan`: the newest plan followed; if it is not the one before, nothing is offered. Buffers: the offer."""

    last_plan: int
    trainable_tokens: int


class ConsumePlan(Message, frozen=True):
    """A logged plan's part for one shard. A part that is not next changes nothing."""

    part: PlanPart
    has_tokens: bool
    """Whether the tokens are wanted too."""


class PlanConsumed(Message, frozen=True):
    """`last_plan`: the newest plan followed, durably. Buffers: the tokens, if wanted and the plan is followed."""

    last_plan: int


# -- control: actors → controller


class Member(msgspec.Struct, frozen=True):
    """One live actor, as the others need to know it."""

    actor_id: str
    role: str
    incarnation: int
    pid: int
    host: str
    control_endpoint: str
    data_endpoint: str = ""
    metrics_endpoint: str = ""


class WeightsAnnouncement(msgspec.Struct, frozen=True):
    """A published version and how to fetch it; `manifest` is the weight channel's own."""

    policy_version: PolicyVersion
    channel: str
    manifest: dict[str, Any]


class Register(Message, frozen=True):
    member: Member


class Registered(Message, frozen=True):
    """The fleet as it stands."""

    members: tuple[Member, ...]
    weights: WeightsAnnouncement | None
    is_paused: bool
    resume_from: str
    """Checkpoint folder to restore from, or empty."""
    learner_incarnation: int
    verifiers: tuple[VerifierInForce, ...] = ()
    """Those that differ from the configuration's."""
    epoch_rules: dict[str, EpochRules] = {}
    source_verifiers: dict[str, str] = {}
    """Sources added since the start, and who judges them."""
    knobs: dict[str, Any] = {}
    """Settings changed since the start."""


class Heartbeat(Message, frozen=True):
    """Sent every second from the event loop, whatever the actor computes."""

    actor_id: str
    incarnation: int
    state: str
    waiting_for: str = ""
    waited_s: float = 0.0
    counters: dict[str, float] = {}


class HeartbeatSeen(Message, frozen=True):
    """`is_known` false: the controller has no such member (it restarted, or counted the actor dead); register again."""

    is_known: bool


class ReadVerifierFile(Message, frozen=True):
    """An actor asks for a file of a verifier that its own host lacks; `name` is its path below `verifiers/`."""

    name: str


class VerifierFile(Message, frozen=True):
    content: bytes


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
    """Groups whose reservation returns: `cause` is an infrastructure fault or a verifier's failure."""

    group_ids: tuple[str, ...]
    cause: str


class VerifierFailing(Message, frozen=True):
    """A verifier fails too often to go on; its sources are paused, the others train on."""

    verifier: str
    version: str
    epoch: int
    reason: str


class TrajectoriesMoved(Message, frozen=True):
    """Replay tells the ledger what became of trajectories, after its own durable commit."""

    states: tuple[TrajectoryState, ...]


class BufferReported(Message, frozen=True):
    """What replay holds, for admission and for people."""

    buffer_tokens: int
    buffer_trajectories: int
    next_plan_number: int
    counters: dict[str, float] = {}


class StepCompleted(Message, frozen=True):
    """One optimizer batch was trained: a line of `metrics.jsonl`."""

    plan_number: int
    policy_version: PolicyVersion
    metrics: dict[str, Any]


class WeightsPublished(Message, frozen=True):
    announcement: WeightsAnnouncement


class WeightsAdopted(Message, frozen=True):
    """A rollout's engine samples from this version now."""

    policy_version: PolicyVersion
    stage_s: float
    pause_s: float


class CheckpointSaved(Message, frozen=True):
    """A durable learner checkpoint covers all plans up to and including `plan_number`."""

    path: str
    plan_number: int
    policy_version: PolicyVersion


class VersionEvaluated(Message, frozen=True):
    """The evaluator scored one version on held-out problems: a line of `evaluations.jsonl`."""

    policy_version: PolicyVersion
    figures: dict[str, Any]


class RunFailed(Message, frozen=True):
    """An actor met an error the run must end with; `kind` is the error's class."""

    actor_id: str
    kind: str
    detail: str


# -- control: launcher ⇄ controller


class ActorSpec(msgspec.Struct, frozen=True, order=True):
    """One process the fleet should have."""

    actor_id: str
    role: str
    incarnation: int


class ActorExit(msgspec.Struct, frozen=True):
    """A process that is gone, and what is known of why."""

    actor_id: str
    incarnation: int
    cause: str
    is_host_lost: bool = False
    """Its host went, and it with it."""


class ActorWaiting(msgspec.Struct, frozen=True):
    """A wanted process that cannot start yet, and what it waits for: a host, or room on one."""

    actor_id: str
    incarnation: int
    whom: str


class ReportFleet(Message, frozen=True):
    """The launcher says what runs and what has ended since; the answer is what should run."""

    exits: tuple[ActorExit, ...]
    waiting: tuple[ActorWaiting, ...] = ()
    """All that wait now."""


class FleetWanted(Message, frozen=True):
    actors: tuple[ActorSpec, ...]
    kept: tuple[str, ...] = ()
    """Ids whose places are kept: of `actors`, and of those whose restart is still delayed."""
    is_finished: bool = False
    failure: str = ""
    """Why the run failed, or empty."""


# -- control: controller → actors


class MembersChanged(Message, frozen=True):
    members: tuple[Member, ...]


class UseWeights(Message, frozen=True):
    announcement: WeightsAnnouncement


class Pause(Message, frozen=True):
    """Stop taking new work; what is under way may finish."""


class Resume(Message, frozen=True):
    pass


class SaveCheckpoint(Message, frozen=True):
    path: str


class CheckpointCovered(Message, frozen=True):
    """Replay may let go of payloads and plans up to and including `plan_number`."""

    plan_number: int


class TuneKnobs(Message, frozen=True):
    """Runtime-tunable settings by dotted name, to take effect at the next boundary."""

    knobs: dict[str, Any]


class PrepareVerifier(Message, frozen=True):
    """Build this verifier beside the one in force, and check it on its golden cases.

    With `is_shadow` it judges along from then on, without effect.
    """

    verifier: VerifierInForce
    is_shadow: bool = False


class VerifierPrepared(Message, frozen=True):
    version: str
    num_cases: int
    """Golden cases it passed."""
    seconds: float


class ReportShadow(Message, frozen=True):
    epoch: int


class ShadowReported(Message, frozen=True):
    """Sums over what both verifiers judged. `num_agreed`: rewards within 1e-6 of each other."""

    num_trajectories: int = 0
    num_agreed: int = 0
    reward_before: float = 0.0
    reward_after: float = 0.0
    seconds_before: float = 0.0
    seconds_after: float = 0.0
    num_groups: int = 0
    failures: dict[str, int] = {}
    """Groups that the new verifier could not judge, by cause."""


class CommitVerifier(Message, frozen=True):
    """Judge with this verifier from the next group on."""

    verifier: VerifierInForce


class DropPrepared(Message, frozen=True):
    """A prepared verifier will not be used."""

    epoch: int


class ApplyEpochRules(Message, frozen=True):
    """Replay trains on no other epochs from now on; what they scored and no batch used is judged again."""

    rules: dict[str, EpochRules]


class UseSources(Message, frozen=True):
    """Who judges sources that were added."""

    source_verifiers: dict[str, str]


class Shutdown(Message, frozen=True):
    """Finish within `deadline_s`: acknowledge or hand back what is held, then exit."""

    deadline_s: float


class Done(Message, frozen=True):
    """The plain yes to a command."""


def all_message_types() -> tuple[type[Message], ...]:
    """Every concrete message, for the codec's tagged union."""
    return tuple(Message.__subclasses__())

"""A verifier swap as a state machine: events in, effects out.

    preparing ──all reward actors built and checked it──▶ shadowing ──N judged by both──▶ [held] ──▶ committing
        │                                                     │                              │            ▼
        └── refused, called off, or not durable ──────────────┴──────────────────────────────┘        committed
                      ▼
        aborted: the verifier in force never stopped

Owns: the states of a swap, its transitions, and the effects of each transition. Does not own epochs
(`core.verifier_epochs`), messages, tasks or time: `actors.controller.verifier_swap` performs the effects.
Invariants: a verifier is never committed if a reward actor refused it, if two reward actors reported different versions
of it, or if a person called the swap off; `CommitDurably` results once at most; a swap that has ended never changes,
and has no more effects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from ring_async.errors import RefusedError
from ring_async.types import VerifierInForce

PREPARE_TIMEOUT_S = 300.0
"""Longest time to load a verifier and judge its golden cases; a reward model on a slow disk needs minutes."""
SHADOW_POLL_S = 0.2
MAX_SHADOW_FAILURE_RATE = 0.5
MIN_SHADOW_GROUPS = 8
"""Fewer failures of the new verifier than this never abort a swap."""


class SwapState(StrEnum):
    """The state of a swap."""

    PREPARING = "preparing"
    SHADOWING = "shadowing"
    HELD = "held"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTED = "aborted"

    @property
    def is_end(self) -> bool:
        return self in (SwapState.COMMITTED, SwapState.ABORTED)


class ShadowCounts(msgspec.Struct, frozen=True):
    """Sums over the responses that both verifiers judged. `num_agreed`: rewards within 1e-6 of each other."""

    num_trajectories: int = 0
    num_agreed: int = 0
    reward_before: float = 0.0
    reward_after: float = 0.0
    seconds_before: float = 0.0
    seconds_after: float = 0.0
    num_groups: int = 0
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    """Groups that the new verifier could not judge, by cause."""

    def __add__(self, other: ShadowCounts) -> ShadowCounts:
        sums = {
            name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__ if name != "failures"
        }
        return ShadowCounts(**sums, failures=dict(Counter(self.failures) + Counter(other.failures)))


# -- events


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reward actor built the new verifier, and it passed its golden cases there."""

    actor_id: str
    version: str
    num_cases: int


@dataclass(frozen=True, slots=True)
class PrepareRefused:
    """A reward actor cannot use the new verifier, or did not answer in time."""

    actor_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ActorLost:
    """A reward actor died while it prepared. After its restart it builds the verifiers in force then."""

    actor_id: str


@dataclass(frozen=True, slots=True)
class ShadowCounted:
    """The sum of all reward actors' shadow counts so far."""

    counts: ShadowCounts


@dataclass(frozen=True, slots=True)
class Approved:
    """A person approved the swap, which is held."""


@dataclass(frozen=True, slots=True)
class CalledOff:
    """A person called the swap off, or a rollback that cannot wait takes its place."""

    reason: str = "called off"


@dataclass(frozen=True, slots=True)
class CommitDurable:
    """The journal holds the new epoch."""


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The journal could not store the new epoch, or the epoch is not the next one; nothing was changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class CommitTold:
    """All living reward actors and replay shards have applied the new epoch."""


Event = (
    Prepared | PrepareRefused | ActorLost | ShadowCounted | Approved | CalledOff
    | CommitDurable | CommitFailed | CommitTold
)  # fmt: skip


# -- effects


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have one reward actor build and check the verifier. Leads to `Prepared`, `PrepareRefused` or `ActorLost`."""

    actor_id: str
    verifier: VerifierInForce
    is_shadow: bool
    timeout_s: float = PREPARE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class CountShadow:
    """Ask all reward actors for their shadow counts, after a short delay. Leads to `ShadowCounted`."""

    epoch: int
    after_s: float = SHADOW_POLL_S


@dataclass(frozen=True, slots=True)
class CommitDurably:
    """Put the new epoch into the journal. Leads to `CommitDurable` or `CommitFailed`."""

    verifier: VerifierInForce
    rescore: bool
    is_rollback: bool


@dataclass(frozen=True, slots=True)
class TellCommit:
    """Tell reward actors the new verifier, then replay the epoch rules. Leads to `CommitTold`."""

    verifier: VerifierInForce


@dataclass(frozen=True, slots=True)
class RecordCommit:
    """Record an event: the verifier changed."""


@dataclass(frozen=True, slots=True)
class RecordAbort:
    """Record an event: the swap ended without effect, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Have reward actors close the verifier that they prepared."""

    epoch: int


Effect = Prepare | CountShadow | CommitDurably | TellCommit | RecordCommit | RecordAbort | Discard


@dataclass(slots=True)
class Swap:
    """One change of a verifier, from its request to its end.

    swap = Swap("math-3", verifier, before, author="ada")
    swap.begin([actor_id], now_s=0.0)                       # [Prepare(actor_id, …)]
    swap.handle(Prepared(actor_id, "v2", 4), now_s=1.0)     # [CommitDurably(…)], state is committing
    swap.handle(CommitDurable(), now_s=1.1)                 # [TellCommit(…)]
    swap.handle(CommitTold(), now_s=1.2)                    # [RecordCommit()], state is committed
    """

    swap_id: str
    verifier: VerifierInForce
    """The new verifier; its version is known once it is prepared."""
    before: VerifierInForce
    """The verifier in force when the swap began."""
    author: str
    shadow: int = 0
    """Trajectories that both verifiers judge before the commit."""
    rescore: bool = False
    is_held: bool = False
    """Whether the swap waits for a person after the shadow phase."""
    is_rollback: bool = False
    cause: str = ""
    """Why the former verifier comes back, if this swap is a rollback; else empty."""
    state: SwapState = SwapState.PREPARING
    reason: str = ""
    """Why the swap was or will be aborted; else empty."""
    num_cases: int = 0
    prepare_s: float = 0.0
    commit_s: float = 0.0
    report: ShadowCounts = field(default_factory=ShadowCounts)
    _began_s: float = 0.0
    _awaited: set[str] = field(default_factory=set)
    """Reward actors that have not yet answered `Prepare`."""
    _prepared: list[Prepared] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.state.is_end

    def begin(self, reward_actors: Iterable[str], now_s: float) -> list[Effect]:
        """Start the swap: all reward actors are to prepare the verifier."""
        self._began_s = now_s
        self._awaited = set(reward_actors)
        if not self._awaited:
            return self._all_answered(now_s)
        is_shadow = self.shadow > 0
        return [Prepare(actor_id, self.verifier, is_shadow) for actor_id in sorted(self._awaited)]

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Handle an event; returns its effects. An event that comes too late has none.

        Raises:
            RefusedError: a person's decision is not possible in this state; nothing was changed.
        """
        match event:
            case Approved():
                return self._approve(now_s)
            case CalledOff(reason):
                return self._call_off(reason)
            case Prepared() | PrepareRefused() | ActorLost() if self.state is SwapState.PREPARING:
                return self._answered(event, now_s)
            case ShadowCounted(counts) if self.state is SwapState.SHADOWING:
                return self._counted(counts, now_s)
            case CommitDurable() if self.state is SwapState.COMMITTING:
                return [TellCommit(self.verifier)]
            case CommitFailed(reason) if self.state is SwapState.COMMITTING:
                return self._abort(reason)
            case CommitTold() if self.state is SwapState.COMMITTING:
                self.commit_s = now_s - self._began_s
                self.state = SwapState.COMMITTED
                return [RecordCommit()]
        return []

    # -- a person's word

    def _approve(self, now_s: float) -> list[Effect]:
        self._refuse_if_decided()
        if self.state is not SwapState.HELD:
            raise RefusedError(f"swap {self.swap_id} is {self.state}; it can be committed once it is held")
        return self._commit(now_s)

    def _call_off(self, reason: str) -> list[Effect]:
        self._refuse_if_decided()
        if self.state is SwapState.PREPARING:  # verifiers that actors are building now are dropped once they are built
            self.reason = reason
            return []
        return self._abort(reason)

    def _refuse_if_decided(self) -> None:
        if self.has_ended or self.state is SwapState.COMMITTING:
            why = f" ({self.reason})" if self.reason else ""
            raise RefusedError(f"swap {self.swap_id} is {self.state}{why}")

    # -- parts

    def _answered(self, event: Prepared | PrepareRefused | ActorLost, now_s: float) -> list[Effect]:
        if event.actor_id not in self._awaited:
            return []
        self._awaited.remove(event.actor_id)
        if isinstance(event, PrepareRefused):
            return self._abort(event.reason)
        if isinstance(event, Prepared):
            self._prepared.append(event)
        return [] if self._awaited else self._all_answered(now_s)

    def _all_answered(self, now_s: float) -> list[Effect]:
        if not self._prepared:
            return self._abort("no reward actor is there to prepare it")
        if len(versions := {one.version for one in self._prepared}) > 1:
            return self._abort(f"reward actors see different code: versions {', '.join(sorted(versions))}")
        version = self._prepared[0].version
        self.verifier = msgspec.structs.replace(self.verifier, version=version)
        self.num_cases, self.prepare_s = self._prepared[0].num_cases, now_s - self._began_s
        if self.before.version == version and not self.is_rollback:
            return self._abort(f"version {version} is in force already")
        if self.reason:
            return self._abort(self.reason)
        if self.shadow:
            self.state = SwapState.SHADOWING
            return [CountShadow(self.verifier.epoch)]
        return self._compared(now_s)

    def _counted(self, counts: ShadowCounts, now_s: float) -> list[Effect]:
        self.report = counts
        num_failed = sum(counts.failures.values())
        if num_failed >= MIN_SHADOW_GROUPS and num_failed > MAX_SHADOW_FAILURE_RATE * counts.num_groups:
            causes = ", ".join(f"{number} {cause}" for cause, number in counts.failures.items())
            return self._abort(f"it could not judge {num_failed} of {counts.num_groups} groups ({causes})")
        if counts.num_trajectories < self.shadow:
            return [CountShadow(self.verifier.epoch)]
        return self._compared(now_s)

    def _compared(self, now_s: float) -> list[Effect]:
        """Decide after the shadow phase found nothing against the new verifier: hold the swap, or commit it."""
        if self.is_held:
            self.state = SwapState.HELD
            return []
        return self._commit(now_s)

    def _commit(self, now_s: float) -> list[Effect]:
        self.state = SwapState.COMMITTING
        self._began_s = now_s
        return [CommitDurably(self.verifier, self.rescore, self.is_rollback)]

    def _abort(self, reason: str) -> list[Effect]:
        self.state, self.reason = SwapState.ABORTED, reason
        return [RecordAbort(reason), Discard(self.verifier.epoch)]

"""The rounds of a weight broadcast: who takes part in each, and what happens when a member fails.

Owns: the membership of a weight broadcast, its gate, its deadlines. Does not own: sockets, communicators, memory.
Events in, effects out; time comes with the events.

    idle ── some member lacks the current version ─▶ gathering ── all ready ─▶ sending ── all staged, sent ─▶ idle
                                                        │ gate_s                  │ lost_s, round_s, a failure
                                                        ▼                         ▼
                                                drop the silent, cancel     abort ─▶ ending ── worker ended ─▶ idle

Invariants:
* Nobody enters a collective before every member of the round has said that it is ready to: a member dead at the gate
  costs `gate_s`, not a hang.
* A round's members are fixed. Who joins meanwhile takes part in the next round, with whoever lacks the version then.
* A communicator is used again only by a round of the same members, after a round that succeeded. Numbers of rounds and
  communicators are never used twice.
* Every state but idle has a deadline. A member that keeps failing, for example for lack of memory, is left out for
  pauses that grow, and never delays the version for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ring_async.types import PolicyVersion

BACKOFF_S = 0.25
MAX_BACKOFF_S = 8.0
"""Longest pause after a failure; pauses double from `BACKOFF_S`. A member is left out meanwhile, the sender rests."""
ENDING_S = 5.0
"""How long the thread of an aborted round may take to end; after that it is abandoned."""


@dataclass(frozen=True, slots=True)
class OfferRound:
    """Tell these members of the round; their rank is their position + 1, the sender's is 0."""

    round: int
    version: PolicyVersion
    members: tuple[str, ...]
    communicator: int
    is_new_communicator: bool


@dataclass(frozen=True, slots=True)
class StartRound:
    """All members are ready: tell them to start, and broadcast."""

    round: int


@dataclass(frozen=True, slots=True)
class CancelRound:
    """The round is called off before its start."""

    round: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AbortRound:
    """The round is called off after its start: abort the communicator, at every member that still lives."""

    round: int
    members: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class DropMember:
    """Forget a member until it joins again."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """No round is under way, and no member lacks the current version."""


Effect = OfferRound | StartRound | CancelRound | AbortRound | DropMember | Settled


@dataclass(slots=True)
class _Backoff:
    num_failures: int = 0
    until_s: float = float("-inf")

    def fail(self, now_s: float) -> None:
        self.until_s = now_s + min(MAX_BACKOFF_S, BACKOFF_S * 2**self.num_failures)
        self.num_failures += 1


@dataclass(slots=True)
class _Member:
    version: PolicyVersion | None
    heard_s: float
    backoff: _Backoff


@dataclass(slots=True)
class _Round:
    number: int
    version: PolicyVersion
    members: tuple[str, ...]
    deadline_s: float
    phase: Literal["gathering", "sending", "ending"] = "gathering"
    ready: set[str] = field(default_factory=set)
    staged: set[str] = field(default_factory=set)
    is_sent: bool = False


class BroadcastRounds:
    """Decides, for the sender of weights, on rounds and their members.

        rounds.join(actor_id, None, now_s=0.0)               # the receiver holds no version yet
        rounds.publish(PolicyVersion(0, 1), now_s=0.1)       # [OfferRound(round=1, …)]
        rounds.ready(1, actor_id, now_s=0.2)                 # [StartRound(round=1)]

    Args:
        gate_s: longest time from the offer to the last "ready".
        round_s: longest time from the start to the last "staged".
        lost_s: silence after which a member is lost; members send signs of life at least four times as often.
    """

    def __init__(self, *, gate_s: float, round_s: float, lost_s: float) -> None:
        self._gate_s = gate_s
        self._round_s = round_s
        self._lost_s = lost_s
        self._version: PolicyVersion | None = None
        self._members: dict[str, _Member] = {}
        self._round: _Round | None = None
        self._backoff = _Backoff()
        self._num_rounds = 0
        self._communicator = 0
        self._communicator_members: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    @property
    def waiting_for(self) -> str | None:
        """The members that the round under way waits for, in words for people."""
        if self._round is None:
            return None
        arrived = self._round.ready if self._round.phase == "gathering" else self._round.staged
        missing = [member for member in self._round.members if member not in arrived]
        return f"{self._round.phase} round {self._round.number}: {', '.join(missing) or 'own work'}"

    # -- events

    def join(self, member: str, version: PolicyVersion | None, now_s: float) -> list[Effect]:
        """A receiver joins, holding `version`. If it was a member of the round under way, it has restarted and left
        that round.
        """
        effects: list[Effect] = []
        if self._round is not None and member in self._round.members and self._round.phase != "ending":
            effects += self._end_early(f"{member} started anew", now_s)
        self._members[member] = _Member(version, now_s, _Backoff())
        return effects + self._go_on(now_s)

    def leave(self, member: str, now_s: float) -> list[Effect]:
        """A receiver leaves."""
        return self._drop([member], "left", now_s) + self._go_on(now_s)

    def hear(self, member: str, now_s: float) -> bool:
        """Note a sign of life. Returns False if the receiver is no member and should join."""
        known = self._members.get(member)
        if known is not None:
            known.heard_s = now_s
        return known is not None

    def publish(self, version: PolicyVersion | None, now_s: float) -> list[Effect]:
        """Set the current version; None: there is none, so the round under way may end and no other starts."""
        self._version = version
        return self._go_on(now_s)

    def ready(self, round_number: int, member: str, now_s: float) -> list[Effect]:
        """A member is ready for the round: it has memory to receive into."""
        current = self._round
        if current is None or current.number != round_number or current.phase != "gathering":
            return []
        current.ready.add(member)
        if not current.ready.issuperset(current.members):
            return []
        current.phase = "sending"
        current.deadline_s = now_s + self._round_s
        return [StartRound(round_number)]

    def staged(self, round_number: int, member: str, now_s: float) -> list[Effect]:
        """A member has received and verified the whole version."""
        current = self._round
        if current is None or current.number != round_number:
            return []
        current.staged.add(member)
        if member in self._members:
            self._members[member].version = current.version
            self._members[member].backoff = _Backoff()
        return self._finish(now_s)

    def failed(self, round_number: int, member: str, reason: str, now_s: float) -> list[Effect]:
        """A member could not take part, or received corrupt data."""
        current = self._round
        if current is None or current.number != round_number or member not in self._members:
            return []
        self._members[member].backoff.fail(now_s)
        return self._end_early(f"{member}: {reason}", now_s) + self._go_on(now_s)

    def sent(self, round_number: int, now_s: float) -> list[Effect]:
        """The sender's own part of the round succeeded."""
        current = self._round
        if current is None or current.number != round_number:
            return []
        current.is_sent = True
        return self._finish(now_s)

    def broken(self, round_number: int, reason: str, now_s: float) -> list[Effect]:
        """The sender's own part of the round failed or was aborted."""
        current = self._round
        if current is None or current.number != round_number:
            return []
        effects: list[Effect] = []
        if current.phase != "ending":
            self._backoff.fail(now_s)
            effects = self._end_early(reason, now_s)
        self._round = None
        return effects + self._go_on(now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Check the deadlines."""
        effects: list[Effect] = []
        lost = [name for name, member in self._members.items() if now_s - member.heard_s > self._lost_s]
        current = self._round
        if current is not None:
            is_late = now_s > current.deadline_s
            if current.phase == "ending":
                if is_late or current.is_sent:
                    self._round = None
            elif is_late or any(name in current.members for name in lost):
                arrived = current.ready if current.phase == "gathering" else current.staged
                culprits = [name for name in current.members if name in lost]
                if not culprits:
                    culprits = [name for name in current.members if name not in arrived]
                late = f"not {'ready' if current.phase == 'gathering' else 'staged'} in time"
                effects += self._end_early("lost " + ", ".join(culprits), now_s)
                effects += self._drop(culprits, late, now_s)
                lost = [name for name in lost if name not in culprits]
        effects += self._drop(lost, f"silent for {self._lost_s} s", now_s)
        return effects + self._go_on(now_s)

    # -- steps

    def _go_on(self, now_s: float) -> list[Effect]:
        """Start a round if some member lacks the current version."""
        if self._round is not None:
            return []
        version = self._version
        lacking = tuple(
            name
            for name in self.members
            if self._members[name].version != version and now_s >= self._members[name].backoff.until_s
        )
        if version is None or not lacking:
            return [Settled()]
        if now_s < self._backoff.until_s:
            return []
        is_new = lacking != self._communicator_members
        if is_new:
            self._communicator += 1
            self._communicator_members = lacking
        self._num_rounds += 1
        self._round = _Round(self._num_rounds, version, lacking, now_s + self._gate_s)
        return [OfferRound(self._num_rounds, version, lacking, self._communicator, is_new)]

    def _finish(self, now_s: float) -> list[Effect]:
        current = self._round
        assert current is not None
        if current.phase == "ending":
            if not current.is_sent:
                return []
        elif not (current.is_sent and current.staged.issuperset(current.members)):
            return []
        self._round = None
        self._backoff = _Backoff()
        return self._go_on(now_s)

    def _end_early(self, reason: str, now_s: float) -> list[Effect]:
        """Call the round off. Before the start nothing runs yet; afterwards the threads of the round must end first."""
        current = self._round
        if current is None or current.phase == "ending":
            return []
        self._communicator_members = ()
        if current.phase == "gathering":
            self._round = None
            return [CancelRound(current.number, current.members)]
        current.phase = "ending"
        current.deadline_s = now_s + ENDING_S
        return [AbortRound(current.number, current.members, reason)]

    def _drop(self, members: list[str], reason: str, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for member in members:
            if self._members.pop(member, None) is None:
                continue
            if self._round is not None and member in self._round.members:
                effects += self._end_early(f"{member}: {reason}", now_s)
            effects.append(DropMember(member, reason))
        return effects

"""The registered members of a run, and the newest heartbeat of each.

Owns: the members, their newest heartbeats, and the count of tokens that all rollouts, dead ones included, generated.
Does not own who should be there (`core.fleet.fleet`) nor the links to them (`member_links`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import ActorState, WaitCause
from ring_async.core.roster import ActorSpec, Role
from ring_async.records.figures import RolloutFigures
from ring_async.records.status import ActorStatus
from ring_async.telemetry import metrics
from ring_async.transport.messages.fleet import Heartbeat, Member


class Membership:
    """All registered members of one run, by actor id.

    members.join(Member(actor_id, Role.ROLLOUT, …))     # True: it is new
    members.heard(Heartbeat(actor_id, …))               # its state and counters, for `describe`
    members.leave(actor_id)
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Member] = {}
        self._beats: dict[str, tuple[Heartbeat, float]] = {}
        self._generated_by_the_dead = 0

    def __contains__(self, actor_id: object) -> bool:
        return actor_id in self.by_id

    def of(self, *roles: Role) -> list[Member]:
        """All members of these roles."""
        return [member for member in self.by_id.values() if member.role in roles]

    def join(self, member: Member) -> bool:
        """Add a member. Returns False if a member equal in every field was there already."""
        is_new = self.by_id.get(member.actor_id) != member
        self.by_id[member.actor_id] = member
        return is_new

    def leave(self, actor_id: str) -> None:
        """Remove a member that is gone; the tokens it generated still count."""
        self.by_id.pop(actor_id, None)
        if (last := self._beats.pop(actor_id, None)) is not None:
            self._generated_by_the_dead += _generated(last[0])

    def heard(self, beat: Heartbeat) -> None:
        """Keep a member's newest heartbeat."""
        self._beats[beat.actor_id] = (beat, monotonic_s())

    def beat_of(self, actor_id: str) -> Heartbeat | None:
        """The newest heartbeat of a member; None if it has sent none, or is gone."""
        beat = self._beats.get(actor_id)
        return beat[0] if beat else None

    def generated_tokens(self) -> int:
        """Response tokens that all rollouts sampled since the run began."""
        return self._generated_by_the_dead + sum(_generated(beat) for beat, _ in self._beats.values())

    def describe(
        self, wanted: Iterable[ActorSpec], without_place: Mapping[str, tuple[str, float]]
    ) -> tuple[ActorStatus, ...]:
        """One entry for each wanted actor: its process, its state, what it waits for.

        Args:
            wanted: the actors that should run.
            without_place: for actors that cannot start yet, what each waits for, and for how many seconds it has.
        """
        return tuple(self._describe(spec, *without_place.get(spec.actor_id, ("", 0.0))) for spec in wanted)

    def export(self) -> None:
        """Set the metrics that describe the members."""
        now_s = monotonic_s()
        for actor_id, (_, heard_s) in self._beats.items():
            metrics.controller_heartbeat_age.labels(actor=actor_id).set(now_s - heard_s)
        for role in Role:
            metrics.controller_members.labels(role=role).set(len(self.of(role)))

    def _describe(self, spec: ActorSpec, whom: str, waited_s: float) -> ActorStatus:
        member = self.by_id.get(spec.actor_id)
        process = ActorStatus(
            actor_id=spec.actor_id,
            role=spec.role,
            incarnation=spec.incarnation,
            pid=member.pid if member else None,
            host=member.host if member else None,
            state=ActorState.WAITING if whom else ActorState.STARTING,
            waiting_for=whom,
            wait_cause=WaitCause.PLACE if whom else WaitCause.NONE,
            waited_s=waited_s,
        )
        if spec.actor_id not in self._beats:
            return process
        beat, heard_s = self._beats[spec.actor_id]
        return msgspec.structs.replace(
            process,
            state=beat.state,
            waiting_for=beat.waiting_for,
            wait_cause=beat.wait_cause,
            waited_s=beat.waited_s,
            heartbeat_age_s=monotonic_s() - heard_s,
            counters=beat.counters,
        )


def _generated(beat: Heartbeat) -> int:
    return beat.counters.generated_tokens if isinstance(beat.counters, RolloutFigures) else 0

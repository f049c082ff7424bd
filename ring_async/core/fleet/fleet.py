"""The fleet: the processes that the run should have, and which of them are alive.

Owns: the wanted actors with their incarnations, the registered members, and the decision to replace. Events in,
effects out: the launcher starts and stops what `wanted` lists. Does not own processes, hosts, sockets, or time.
Invariants: an actor id has at most one wanted incarnation; a message of an older incarnation never counts as alive; an
actor that loses its host, or waits for one, is not counted as having died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.roster import ActorSpec, Role, id_of, ordinal_of


@dataclass(frozen=True, slots=True)
class FleetChange:
    """The effects of an event on the fleet.

    Attributes:
        lost: the actor that left the fleet just now, or None.
        notice: a sentence for people.
        given_up: why the actor is not started again (the run may then be unable to go on); empty if it is.
        has_left: whether the actor had been told to leave.
    """

    lost: ActorSpec | None = None
    notice: str = ""
    given_up: str = ""
    has_left: bool = False


@dataclass(slots=True)
class _Wanted:
    role: Role
    incarnation: int
    start_at_s: float
    last_seen_s: float | None = None
    leave_by_s: float | None = None
    """When an actor that was told to leave counts as gone at the latest; None: it was not told to."""
    no_place: str = ""
    """What the actor waits for before its process can start, or empty."""
    no_place_since_s: float = 0.0


@dataclass(slots=True)
class Fleet:
    """The wanted fleet of one run.

        fleet.want("rollout", 2, now_s=0.0)                            # rollout-0 and rollout-1, incarnation 0
        fleet.saw(actor_id, 0, now_s=1.0)                              # True
        fleet.exited(actor_id, 0, "exit code 1", now_s=5.0).notice     # "rollout-0 died (exit code 1); …"
        fleet.wanted(now_s=6.0)                                        # with rollout-0 as incarnation 1

    Args:
        heartbeat_timeout_s: a registered actor silent for longer is dead.
        start_timeout_s: an actor that has not registered this long after its start is dead.
    """

    restart: RestartPolicy
    heartbeat_timeout_s: float
    start_timeout_s: float
    _actors: dict[str, _Wanted] = field(default_factory=dict)
    _nums: dict[Role, int] = field(default_factory=dict)
    """How many of each role there should be."""
    _gone: dict[str, int] = field(default_factory=dict)
    """Last incarnations of actors that left, so that one that comes back under the same id is a new one."""

    def want(self, role: Role, num: int, now_s: float, *, leave_s: float = 0.0) -> list[ActorSpec]:
        """Set the number of actors of a role; returns the actors that must leave, the newest first.

        A leaving actor stays part of the fleet until its process has ended, for at most `leave_s`. A leaving actor that
        is wanted again ends all the same, and comes back as a new incarnation.
        """
        self._nums[role] = num
        for index in range(num):
            actor_id = id_of(role, index)
            if actor_id not in self._actors:
                self._actors[actor_id] = _Wanted(role, self._gone.get(actor_id, -1) + 1, now_s)
        leaving = []
        for actor_id in sorted((a for a, w in self._actors.items() if w.role == role), key=ordinal_of, reverse=True):
            wanted = self._actors[actor_id]
            if ordinal_of(actor_id) >= num and wanted.leave_by_s is None:
                wanted.leave_by_s = now_s + leave_s
                leaving.append(ActorSpec(actor_id, role, wanted.incarnation))
        return leaving

    def num_wanted(self, role: Role) -> int:
        """How many actors of a role there should be."""
        return self._nums.get(role, 0)

    @property
    def actor_ids(self) -> tuple[str, ...]:
        """The ids of all actors of the fleet, those whose restart is still delayed included."""
        return tuple(self._actors)

    def seek_places(self, waiting: Mapping[tuple[str, int], str], now_s: float) -> list[str]:
        """Note which actors have no place where their process could start; their start timeout does not run meanwhile.

        Args:
            waiting: all actors without a place, by id and incarnation, with what each waits for.
            now_s: the time.

        Returns:
            Ids of the actors that began to wait since the last call.
        """
        fresh = []
        for actor_id, wanted in self._actors.items():
            whom = waiting.get((actor_id, wanted.incarnation), "")
            if whom:
                wanted.start_at_s = now_s
                if not wanted.no_place:
                    wanted.no_place_since_s = now_s
                    fresh.append(actor_id)
            wanted.no_place = whom
        return fresh

    def waits_for_place(self, now_s: float) -> dict[str, tuple[str, float]]:
        """The actors without a place: what each waits for, and for how many seconds it has waited."""
        return {a: (w.no_place, now_s - w.no_place_since_s) for a, w in self._actors.items() if w.no_place}

    def is_leaving(self, actor_id: str) -> bool:
        wanted = self._actors.get(actor_id)
        return wanted is not None and wanted.leave_by_s is not None

    def wanted(self, now_s: float) -> list[ActorSpec]:
        """The processes that should run at `now_s`; one whose restart is still delayed is not listed."""
        return [ActorSpec(a, w.role, w.incarnation) for a, w in self._actors.items() if now_s >= w.start_at_s]

    def is_current(self, actor_id: str, incarnation: int) -> bool:
        """Whether this incarnation of the actor is the one wanted now."""
        wanted = self._actors.get(actor_id)
        return wanted is not None and wanted.incarnation == incarnation

    def saw(self, actor_id: str, incarnation: int, now_s: float) -> bool:
        """Note a registration or heartbeat. Returns whether this incarnation is part of the fleet."""
        if not self.is_current(actor_id, incarnation):
            return False
        self._actors[actor_id].last_seen_s = now_s
        return True

    def adopt(self, incarnations: Mapping[str, int]) -> None:
        """Restore the incarnation numbers from before a restart of the controller."""
        for actor_id, incarnation in incarnations.items():
            if actor_id in self._actors:
                self._actors[actor_id].incarnation = max(self._actors[actor_id].incarnation, incarnation)
            else:
                self._gone[actor_id] = incarnation

    def postpone(self, by_s: float) -> None:
        """Leave a time out of account in which no message could be read: nobody was silent or late in it."""
        for wanted in self._actors.values():
            wanted.start_at_s += by_s
            if wanted.last_seen_s is not None:
                wanted.last_seen_s += by_s
            if wanted.leave_by_s is not None:
                wanted.leave_by_s += by_s

    def incarnations(self) -> dict[str, int]:
        return self._gone | {actor_id: wanted.incarnation for actor_id, wanted in self._actors.items()}

    def exited(
        self, actor_id: str, incarnation: int, cause: str, now_s: float, *, is_host_lost: bool = False
    ) -> FleetChange:
        """Handle the end of a process: replace it, or give the actor up. A lost host does not count as a death."""
        if not self.is_current(actor_id, incarnation):
            if is_host_lost:  # the actor was silent before, and was counted dead then
                self.restart.forgive(actor_id)
            return FleetChange()
        wanted = self._actors[actor_id]
        lost = ActorSpec(actor_id, wanted.role, incarnation)
        if wanted.leave_by_s is not None:
            del self._actors[actor_id]
            if ordinal_of(actor_id) < self._nums[wanted.role]:
                self._actors[actor_id] = _Wanted(wanted.role, incarnation + 1, now_s)
            else:
                self._gone[actor_id] = incarnation
            return FleetChange(lost, f"{actor_id} left", has_left=True)
        if is_host_lost:
            self._actors[actor_id] = _Wanted(wanted.role, incarnation + 1, now_s)
            return FleetChange(lost, f"{actor_id} is lost ({cause}); it starts again where there is a place")
        decision = self.restart.on_death(actor_id, now_s, cause)
        if decision.delay_s is None:
            return FleetChange(lost, decision.reason, given_up=decision.reason)
        self._actors[actor_id] = _Wanted(wanted.role, incarnation + 1, now_s + decision.delay_s)
        return FleetChange(lost, decision.reason)

    def expire(self, now_s: float) -> list[FleetChange]:
        """Count silent actors as dead; the launcher kills processes that are no longer wanted."""
        changes = []
        for actor_id, wanted in list(self._actors.items()):
            if wanted.leave_by_s is not None and now_s > wanted.leave_by_s:
                changes.append(self.exited(actor_id, wanted.incarnation, "told to leave", now_s))
                continue
            if wanted.last_seen_s is not None:
                silent_s, limit_s, what = now_s - wanted.last_seen_s, self.heartbeat_timeout_s, "no heartbeat"
            else:
                silent_s, limit_s, what = now_s - wanted.start_at_s, self.start_timeout_s, "did not register"
            if silent_s > limit_s:
                changes.append(self.exited(actor_id, wanted.incarnation, f"{what} for {silent_s:.0f} s", now_s))
        return changes

"""The fleet shell: it carries out what `core.fleet.fleet` decides, and keeps all members informed.

    launcher ──exits, waits──▶ ┌────────────┐ ──FleetWanted──▶ launcher
    actors ──Register, beats──▶│ FleetShell │ ──MembersChanged, commands──▶ actors
                               └────────────┘

Owns: the agreement of the wanted fleet, the registered members and the links to them, and the member list that every
member gets. Does not own what the loss of an actor means for the run: the controller does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.member_links import MemberLinks
from ring_async.actors.controller.member_list import MemberList
from ring_async.actors.controller.membership import Membership
from ring_async.clock import monotonic_s
from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.fleet import Fleet, FleetChange
from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.roster import CONTROLLER_ID, ActorSpec, Role
from ring_async.errors import PeerTimeoutError, RefusedError, RingAsyncError
from ring_async.records.status import ActorStatus
from ring_async.transport.base import Transport
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.fleet import (
    Heartbeat,
    HeartbeatSeen,
    Member,
    MembersMark,
    ReportFleet,
    Shutdown,
)

log = logging.getLogger(__name__)

LEAVE_S = 30.0
"""Longest time for an actor that is scaled away to finish what it has under way."""
COMMAND_TIMEOUT_S = 300.0
"""Longest time for a command. A learner applies settings between two steps, and a step of a large model takes minutes.
"""
REJOIN_S = 5.0
"""How long a restarted controller waits for the members to register again, before it tells them who is there, or to
leave. Each registers with its next heartbeat."""


class FleetShell:
    """Carries out what the fleet decides.

        fleet.start({Role.ROLLOUT: 2, Role.LEARNER: 1})
        fleet.join(Member(actor_id, Role.ROLLOUT, …))     # True: it is new, and all members hear of it
        fleet.scale(Role.ROLLOUT, 1)                      # rollout-1 is told to finish and leave
        await fleet.forget(another_id)                    # its process ended

    Args:
        context: of the run.
        transport: opens the links to members.
        incarnation: of the controller.
    """

    def __init__(self, context: RunContext, transport: Transport, incarnation: int = 0) -> None:
        placement = context.config.placement
        self._notes = context.notes
        self._run_log = context.run_log
        self._spawn = context.spawn
        self._has_gathered = asyncio.Event()
        if not context.is_fleet_alive:
            self._has_gathered.set()
        self.wanted = Fleet(
            RestartPolicy(placement.max_restarts, placement.restart_window_s),
            context.config.monitoring.heartbeat_timeout_s,
            placement.start_timeout_s,
        )
        self.members = Membership()
        self._member_list = MemberList(incarnation)
        self._is_list_new = context.is_fleet_alive
        """Whether members know a list of an earlier controller, so that each needs the whole list once."""
        self.links = MemberLinks(transport, self._member_list)
        self._somebody_joined = asyncio.Event()
        self._somebody_left = asyncio.Condition()

    def start(self, counts: Mapping[Role, int]) -> None:
        """Set the wanted number of actors of each role; actors that the run had before get new incarnations."""
        now_s = monotonic_s()
        for role, num in counts.items():
            if role != Role.CONTROLLER:
                self.wanted.want(role, num, now_s)
        self.wanted.adopt(self._notes.get("incarnations") or {})
        if self.is_gathering:
            self._spawn(self._gather())

    def scale(self, role: Role, num: int) -> None:
        """Change the wanted number of actors of one role; surplus actors finish and leave."""
        leaving = self.wanted.want(role, num, monotonic_s(), leave_s=LEAVE_S + 5.0)
        self.note_incarnations()
        self.tell_members()
        for key in leaving:
            self.links.tell(key.actor_id, Shutdown(LEAVE_S))

    # -- members

    @property
    def is_gathering(self) -> bool:
        """Whether this controller restarted and waits for the members that live on to register again."""
        return not self._has_gathered.is_set()

    async def until_gathered(self) -> None:
        """Wait until the members that live on have registered again, or `REJOIN_S` are over."""
        await self._has_gathered.wait()

    def is_newcomer(self, member: Member) -> bool:
        """Whether `join` would take in a member that is not registered yet."""
        is_wanted = self.wanted.is_current(member.actor_id, member.incarnation)
        return is_wanted and self.members.by_id.get(member.actor_id) != member

    def join(self, member: Member) -> bool:
        """Register a member. Returns False if the same member, unchanged, was registered before.

        Raises:
            RefusedError: the fleet does not want this incarnation.
        """
        if not self.wanted.saw(member.actor_id, member.incarnation, monotonic_s()):
            raise RefusedError(f"{member.actor_id} incarnation {member.incarnation} is not part of this fleet")
        is_new = self.members.join(member)
        if is_new:
            self._somebody_joined.set()
            self._member_list.update(self.staying())
            self.links.open(member, None if self._is_list_new else self._member_list.mark)
            self._run_log.event(
                EventKind.JOINED,
                author=member.actor_id,
                incarnation=member.incarnation,
                pid=member.pid,
                host=member.host,
            )
            self.tell_members()
        return is_new

    def beat(self, beat: Heartbeat) -> HeartbeatSeen:
        """Record a heartbeat; the answer says whether its sender must register again."""
        is_current = self.wanted.saw(beat.actor_id, beat.incarnation, monotonic_s())
        if is_current:
            self.members.heard(beat)
        return HeartbeatSeen(is_known=is_current and beat.actor_id in self.members)

    def take_exits(self, report: ReportFleet) -> list[FleetChange]:
        """Handle the ends of processes that the launcher reports; returns the resulting fleet changes."""
        now_s = monotonic_s()
        return [
            self.wanted.exited(gone.actor_id, gone.incarnation, gone.cause, now_s, is_host_lost=gone.is_host_lost)
            for gone in report.exits
        ]

    def take_waiting(self, report: ReportFleet) -> None:
        """Record the processes that, as the launcher reports, cannot start yet."""
        now_s = monotonic_s()
        waiting = {(one.actor_id, one.incarnation): one.whom for one in report.waiting}
        for actor_id in self.wanted.seek_places(waiting, now_s):
            whom, _ = self.wanted.waits_for_place(now_s)[actor_id]
            log.warning("%s cannot start yet: it waits for %s", actor_id, whom)
            self._run_log.event(EventKind.ACTOR_WAITING, author=CONTROLLER_ID, actor=actor_id, whom=whom)

    async def forget(self, actor_id: str) -> None:
        """Remove a member that is gone: wake the tasks that wait for its end, and drop its undelivered news."""
        self.members.leave(actor_id)
        async with self._somebody_left:
            self._somebody_left.notify_all()
        self.links.drop(actor_id)

    def note_incarnations(self) -> None:
        """Store the newest incarnation of every actor."""
        self._notes.hold("incarnations", self.wanted.incarnations())

    def staying(self) -> tuple[Member, ...]:
        """The members that others may send work to: all but those that are leaving."""
        return tuple(one for one in self.members.by_id.values() if not self.wanted.is_leaving(one.actor_id))

    def specs(self) -> list[ActorSpec]:
        """The processes that should run now."""
        return self.wanted.wanted(monotonic_s())

    def describe(self) -> tuple[ActorStatus, ...]:
        """One entry for each actor that should run; see `Membership.describe`."""
        now_s = monotonic_s()
        return self.members.describe(self.wanted.wanted(now_s), self.wanted.waits_for_place(now_s))

    # -- news

    def tell(self, news: Message, *roles: Role) -> None:
        """Send news to all members of these roles."""
        for member in self.members.of(*roles):
            self.links.tell(member.actor_id, news)

    def tell_members(self) -> None:
        """Tell every member how the list of members has changed. A list that is known to lack living members is not
        told: their peers would send elsewhere what these have in hand.
        """
        self._member_list.update(self.staying())
        if not self.is_gathering:
            self.links.tell_members()

    @property
    def members_mark(self) -> MembersMark:
        """The moment of the list of members that `staying` gives."""
        return self._member_list.mark

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REJOIN_S):
                while not all(spec.actor_id in self.members for spec in self.specs()):
                    self._somebody_joined.clear()
                    await self._somebody_joined.wait()
        self._has_gathered.set()
        self.tell_members()

    async def is_done(self, actor_id: str, command: Message) -> bool:
        """Send a command; returns whether the member carried it out in time, or is gone and need not.

        A member that did neither is brought up to date when it registers again.
        """
        try:
            await self.links.command(actor_id, command, timeout_s=COMMAND_TIMEOUT_S)
        except PeerTimeoutError:
            return actor_id not in self.members
        except RefusedError as refusal:
            log.error("%s refused %s: %s", actor_id, type(command).__name__, refusal)
            return False
        except RingAsyncError:
            return False  # the member is gone, and its link with it
        return True

    async def dismiss(self, roles: Iterable[Role], *, finish_s: float, end_s: float) -> None:
        """Tell the actors of these roles to leave: they get `finish_s` to finish their work, and must be gone by
        `end_s`.
        """
        leaving = [member.actor_id for member in self.members.of(*roles)]
        for actor_id in leaving:
            self.links.tell(actor_id, Shutdown(finish_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end_s - monotonic_s())), self._somebody_left:
                await self._somebody_left.wait_for(lambda: not self.members.by_id.keys() & set(leaving))

"""What all actors share: a life cycle, heartbeats, commands, and knowledge of the other members.

Owns: the control inbox of one actor, its registration with the controller, its heartbeat, and the links to other
members' data inboxes. Does not own what the actor does.
Invariants: the event loop never computes (compute has threads of its own), so heartbeats never wait on it; every wait
names whom it waits for and has a deadline; an actor whose loops have ended has closed everything it opened.

    launcher ──starts──▶ open() ──▶ register ──▶ main() ┬ returns: the work is done, or `stopping` was set
                                                        └ raises: the process ends, the controller decides
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from ring_async.actors.known_members import KnownMembers
from ring_async.actors.waits import Waits, ask_until_answered
from ring_async.clock import monotonic_s
from ring_async.columns import Buffer
from ring_async.config.schema import Config
from ring_async.core.fleet.states import ActorState, WaitCause
from ring_async.core.roster import CONTROLLER_ID, ActorSpec, Role
from ring_async.errors import (
    ActorFailedError,
    PeerTimeoutError,
    RefusedError,
    RingAsyncError,
    RunError,
    TransportError,
    first_failure,
)
from ring_async.records.figures import ActorFigures
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.observe import observe_loop_lag
from ring_async.telemetry.resources import observe_resources
from ring_async.telemetry.trace import Tracer
from ring_async.transport.base import Delivery, Inbox, Outbox, Transport
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.fleet import (
    Heartbeat,
    HeartbeatSeen,
    Holding,
    Member,
    MembersChanged,
    MembersMissed,
    Register,
    Registered,
    RunFailed,
    Shutdown,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0
"""How long an actor waits for the controller's answer before it asks again."""

LEFT_POLL_S = 1.0
"""How often an actor that waits for a member checks whether that member has left the fleet."""


@dataclass(frozen=True, slots=True)
class ActorContext:
    """What an actor is given: its identity, the run it belongs to, and how to reach the controller."""

    spec: ActorSpec
    config: Config
    run_dir: RunDir
    transport: Transport
    controller_endpoint: str
    tracer: Tracer
    metrics_endpoint: str = ""
    host: str = field(default_factory=socket.gethostname)
    """Address of the actor's host, as people and the cluster know it."""


class Actor:
    """One long-lived process of the fleet. Subclasses give `open`, `main`, `on_command` and `close`.

    actor = Rollout(context, …)
    await actor.live()       # open, register, main until `Shutdown` or the work's end, close
    """

    role: ClassVar[Role]
    slow_commands: ClassVar[tuple[type[Message], ...]] = ()
    """Commands that may take long: others do not wait for them."""

    def __init__(self, context: ActorContext) -> None:
        self.context = context
        self.config = context.config
        self.actor_id = context.spec.actor_id
        self.incarnation = context.spec.incarnation
        self.tracer = context.tracer
        self.waits = Waits(self.actor_id)
        self.stopping = asyncio.Event()
        self.stop_deadline_s = 0.0
        self.state = ActorState.STARTING
        self._known = KnownMembers()
        self._num_given: Counter[str] = Counter()
        """Messages for which `deliver` has chosen each member."""
        self._members_moved = asyncio.Condition()
        self.compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._is_open = asyncio.Event()
        self._commands: asyncio.Queue[Delivery] = asyncio.Queue()
        self._data_links: dict[str, Outbox] = {}
        self._control_inbox: Inbox = context.transport.open_inbox("control")
        self._data_inbox: Inbox | None = None
        self.controller: Outbox = context.transport.connect(context.controller_endpoint, peer=CONTROLLER_ID)

    # -- what subclasses give

    async def open(self) -> None:
        """Load what the actor needs before it joins the fleet."""

    async def joined(self, registered: Registered) -> None:
        """Hook for each registration with the controller: at the start, and after a restart of either."""

    def holds(self) -> Holding:
        """What this actor has in hand, for the controller that it registers with."""
        return Holding()

    async def main(self) -> None:
        """Do the actor's work until it is done or `stopping` is set."""
        await self.stopping.wait()

    async def on_command(self, message: Message) -> Message:
        """Carry out a command of the controller. Commands that come before `open` has ended wait for it."""
        raise RefusedError(f"{self.actor_id} does not know the command {type(message).__name__}")

    async def close(self) -> None:
        """Release what `open` took."""

    def parts(self) -> dict[str, object]:
        """What this actor is made of: itself, its transport, and what the configuration chose for it."""
        return {"actor": self, "transport": self.context.transport}

    def counters(self) -> ActorFigures | None:
        """The figures that each heartbeat carries, for `status` and throughput; None before there are any."""
        return None

    async def on_compute(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on the actor's one compute thread, after the functions that were passed earlier."""
        return await asyncio.get_running_loop().run_in_executor(self.compute, function, *args)

    async def ask_controller(self, message: Message) -> Message:
        """Ask the controller, again and again while it is away. To bound the time, call this within `Waits.on`.

        Raises:
            RefusedError: the controller refused.
        """
        ask = functools.partial(self.controller.request, message, timeout_s=REQUEST_TIMEOUT_S)
        return (await ask_until_answered(ask)).message

    # -- links to other members

    def open_data_inbox(self, *, num_credits: int | None = None) -> None:
        """Open the inbox that other actors send to. Call this in `open`, so that the registration can name the inbox.

        Args:
            num_credits: unsettled messages that one sender may have here; None: `transport.credits`.
        """
        self._data_inbox = self.context.transport.open_inbox("data", credits=num_credits)

    @property
    def data_inbox(self) -> Inbox:
        assert self._data_inbox is not None, "open_data_inbox comes first"
        return self._data_inbox

    @property
    def members(self) -> dict[str, Member]:
        """The members of the fleet, by id, as far as this actor has heard."""
        return self._known.by_id

    def members_of(self, role: Role) -> list[Member]:
        """Registered members of a role, in a fixed order."""
        return sorted((m for m in self.members.values() if m.role == role), key=lambda m: (len(m.actor_id), m.actor_id))

    async def registered(self, role: Role, actor_id: str = "") -> list[Member]:
        """Wait until a member of this role, or the member of this id, has registered; returns the role's members."""
        async with self.waits.on(f"{actor_id or f'a {role}'} to register"), self._members_moved:
            await self._members_moved.wait_for(
                lambda: actor_id in self.members if actor_id else bool(self.members_of(role))
            )
        return self.members_of(role)

    def data_link(self, actor_id: str) -> Outbox:
        """The outbox that leads to a member's data inbox."""
        if actor_id not in self._data_links:
            endpoint = self.members[actor_id].data_endpoint
            self._data_links[actor_id] = self.context.transport.connect(endpoint, peer=actor_id)
        return self._data_links[actor_id]

    async def deliver(
        self, role: Role, message: Message, buffers: Sequence[Buffer], *, message_id: str, what: str
    ) -> None:
        """Send a message to the least busy member of a role, in turns among equals; wait for its acknowledgement.

        A member that restarts gets the message again from the channel. Where a member leaves the fleet, another one
        of its role gets the message.

        Args:
            role: of the members to choose from.
            message: what is sent, with `buffers`.
            buffers: arrays sent with the message, uncopied; they must not change until it is acknowledged.
            message_id: identifies the message, so that the member recognises a repetition.
            what: what the member is asked to do, in words for people: `to judge`.

        Raises:
            RefusedError: the member said no.
        """

        async def send(actor_id: str) -> None:
            async with self.waits.on(f"{actor_id} {what}", cause=WaitCause.COMMIT):
                await (await self.data_link(actor_id).send(message, buffers, message_id=message_id))

        while True:
            members = await self.registered(role)
            busy = {one.actor_id: self.data_link(one.actor_id).num_unacknowledged for one in members}
            chosen = min(busy, key=lambda actor_id: (busy[actor_id], self._num_given[actor_id]))
            self._num_given[chosen] += 1
            sending = asyncio.create_task(send(chosen))
            try:
                while not sending.done() and chosen in self.members:
                    await asyncio.wait([sending], timeout=LEFT_POLL_S)
                if sending.done():
                    await sending
                    return
            finally:
                sending.cancel()

    async def _follow_members(self, before: Mapping[str, Member]) -> None:
        """Have the links lead to where the members are now, and wake those who wait for one."""
        for actor_id, link in list(self._data_links.items()):
            member = self.members.get(actor_id)
            if member is None:
                continue  # the member may be restarting; its outbox keeps the unacknowledged messages for it
            known = before.get(actor_id)
            if known is None or (known.incarnation, known.data_endpoint) != (member.incarnation, member.data_endpoint):
                await link.redirect(member.data_endpoint)
        async with self._members_moved:
            self._members_moved.notify_all()

    # -- life

    async def live(self) -> None:
        """The whole life of the actor, from its first socket to its last."""
        try:
            async with asyncio.TaskGroup() as tasks:
                commands = tasks.create_task(self._serve_commands(), name="commands")
                await self.open()
                self._is_open.set()
                await self._register()
                heartbeats = tasks.create_task(self._send_heartbeats(), name="heartbeats")
                lag = tasks.create_task(observe_loop_lag(), name="loop_lag")
                self.state = ActorState.RUNNING
                await self.main()
                await self._finish_commands()
                self.state = ActorState.DONE
                lag.cancel()
                heartbeats.cancel()
                commands.cancel()
        except* RingAsyncError as failures:
            failure = first_failure(failures)
            assert isinstance(failure, RingAsyncError)
            await self._report(failure)
            raise
        finally:
            await self._release()

    async def _release(self) -> None:
        """Let go of everything; an interruption ends the step that it meets, and the others are still taken."""
        async with contextlib.AsyncExitStack() as steps:  # taken from the last to the first
            steps.callback(self.tracer.close)
            steps.push_async_callback(self.context.transport.close)
            steps.callback(self.compute.shutdown, wait=True)
            steps.push_async_callback(self.close)
            # before all others: callbacks on its acknowledgements may use what they close
            await self.controller.close(drain_s=2.0)

    async def _report(self, failure: BaseException) -> None:
        log.error("%s failed: %s", self.actor_id, failure)
        message = RunFailed(self.actor_id, type(failure).__name__, str(failure))
        with contextlib.suppress(RingAsyncError, OSError):
            await self.controller.request(message, timeout_s=2.0)

    async def _register(self) -> None:
        context = self.context
        member = Member(
            actor_id=self.actor_id,
            role=self.role,
            incarnation=self.incarnation,
            pid=os.getpid(),
            host=context.host,
            control_endpoint=self._control_inbox.endpoint,
            data_endpoint=self._data_inbox.endpoint if self._data_inbox else "",
            metrics_endpoint=context.metrics_endpoint,
        )
        async with self.waits.on("registration with controller-0", self.config.placement.start_timeout_s):
            registered = await self.ask_controller(Register(member, self.holds()))
        assert isinstance(registered, Registered)
        before = self.members
        self._known.registered(registered.members, registered.members_mark)
        await self._follow_members(before)
        await self.joined(registered)

    async def _send_heartbeats(self) -> None:
        """Consumes nothing / produces heartbeats / waits for the controller / freed by its answer or a time-out."""
        monitoring = self.config.monitoring
        silent_s = 0.0
        while True:
            asked_s = monotonic_s()
            self.context.transport.observe()
            observe_resources(self.context.run_dir.path)
            whom, waited_s = self.waits.longest()
            beat = Heartbeat(
                self.actor_id, self.incarnation, self.state, whom, waited_s, self.counters(), self.waits.cause
            )
            try:
                seen = (await self.controller.request(beat, timeout_s=REQUEST_TIMEOUT_S)).message
                silent_s = 0.0
                if isinstance(seen, HeartbeatSeen) and not seen.is_known:
                    await self._register()
            except PeerTimeoutError:
                # Bounded: a process that was stopped meanwhile must not take its own silence for the controller's.
                silent_s += min(monotonic_s() - asked_s, REQUEST_TIMEOUT_S) + monitoring.heartbeat_s
                log.warning("%s: no answer from controller-0 for %.0f s", self.actor_id, silent_s)
                if silent_s > 4 * monitoring.heartbeat_timeout_s:
                    raise ActorFailedError(f"{self.actor_id}: controller-0 silent for {silent_s:.0f} s") from None
                await self._look_for_controller()
            await asyncio.sleep(monitoring.heartbeat_s)

    async def _look_for_controller(self) -> None:
        """A controller that restarted may listen elsewhere; hosts that see the run's folder find its address there."""
        with contextlib.suppress(RunError, KeyError, ValueError, OSError, TransportError):
            endpoint = (await asyncio.to_thread(self.context.run_dir.read_endpoints))["control"]
            await self.controller.redirect(str(endpoint))

    async def _serve_commands(self) -> None:
        """Consumes commands / produces queued commands / waits for the next / freed by the controller.

        The news that every actor understands is taken in at once: it needs nothing that `open` makes, and neither a
        long opening nor a long command may keep an actor from leaving.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._carry_out_commands(), name="carry out commands")
            while True:
                delivery = await self._control_inbox.receive()
                if isinstance(delivery.message, MembersChanged | Shutdown):
                    await self._answer_command(delivery)
                elif isinstance(delivery.message, self.slow_commands):
                    tasks.create_task(self._answer_command(delivery), name=type(delivery.message).__name__)
                else:
                    self._commands.put_nowait(delivery)  # the inbox's credits bound the queue

    async def _carry_out_commands(self) -> None:
        """Consumes queued commands, in order / produces their effects / waits for `open`, then for the next / freed by
        `_serve_commands`.
        """
        while True:
            await self._answer_command(await self._commands.get())
            self._commands.task_done()

    async def _finish_commands(self) -> None:
        """Let queued commands end, a checkpoint for example, until the deadline by which the actor must leave."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.stop_deadline_s - monotonic_s())):
                await self._commands.join()

    async def _answer_command(self, delivery: Delivery) -> None:
        if not isinstance(delivery.message, MembersChanged | Shutdown):
            await self._is_open.wait()
        try:
            delivery.reply(await self._obey(delivery.message))
        except RingAsyncError as refusal:
            delivery.refuse(str(refusal))

    async def _obey(self, message: Message) -> Message:
        if isinstance(message, MembersChanged):
            before = self.members
            if not self._known.follow(message):
                return MembersMissed()
            await self._follow_members(before)
            return Done()
        if isinstance(message, Shutdown):
            self.stop_deadline_s = monotonic_s() + message.deadline_s
            self.state = ActorState.STOPPING
            self.stopping.set()
            return Done()
        return await self.on_command(message)

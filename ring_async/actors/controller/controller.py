"""Controller: admits work, keeps the account, knows the fleet.

    rollouts ──ReserveGroups──▶ admission ──▶ prompt desk ──▶ journal ──GroupsReserved──▶ rollouts
    replay   ──TrajectoriesMoved, BufferReported──▶ ledger, admission
    learner  ──StepCompleted, WeightsPublished, CheckpointSaved──▶ metrics.jsonl, news to rollouts and replay
    evaluator──VersionEvaluated──▶ evaluations.jsonl
    launcher ──ReportFleet──▶ fleet ──FleetWanted──▶ launcher
    people   ──control API──▶ pause, resume, checkpoint, down, status

Owns: the run: membership, restarts, news of versions and members, checkpoints, pause, the end.
Decides nothing that `core` decides: who lives (`Fleet`), what is granted (`WorkDesk`).
Invariants: a reservation is durable before a rollout hears of it; the event loop never waits on an actor without a
deadline; the run ends once, with one reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

from ring_async.actors.base import ActorContext
from ring_async.actors.controller.changes import LiveChanges
from ring_async.actors.controller.member_book import MemberBook
from ring_async.actors.controller.member_links import MemberLinks
from ring_async.actors.controller.prompts import MakeSource
from ring_async.actors.controller.run_log import StepLog
from ring_async.actors.controller.work import WorkDesk
from ring_async.actors.verifier_files import read_kept
from ring_async.clock import monotonic_s
from ring_async.core.fleet.fleet import Fleet, FleetChange
from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID, LEAVING_ORDER, Role
from ring_async.core.work.admission import Grant
from ring_async.core.work.reservations import Returned
from ring_async.errors import PeerTimeoutError, RefusedError, RingAsyncError, RunError, StorageError
from ring_async.storage.run_dir import write_json
from ring_async.telemetry import metrics
from ring_async.transport.base import Delivery
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import StepCompleted
from ring_async.transport.messages.changes import ReadVerifierFile, VerifierFailing, VerifierFile
from ring_async.transport.messages.fleet import (
    FleetWanted,
    Heartbeat,
    HeartbeatSeen,
    Member,
    MembersChanged,
    Pause,
    Register,
    Registered,
    ReportFleet,
    Resume,
    RunFailed,
    Shutdown,
)
from ring_async.transport.messages.versions import (
    CheckpointCovered,
    CheckpointSaved,
    SaveCheckpoint,
    UseWeights,
    VersionEvaluated,
    WeightsAdopted,
    WeightsAnnouncement,
    WeightsPublished,
)
from ring_async.transport.messages.work import (
    BufferReported,
    GroupsFailed,
    GroupsReserved,
    LeasesRenewed,
    RenewLeases,
    ReserveGroups,
    TrajectoriesMoved,
)

log = logging.getLogger(__name__)

TICK_S = 0.1
LONG_POLL_S = 1.0
"""How long a question for work is held before it is answered with the reason why there is none."""
STOP_DEADLINE_S = 10.0
FATAL_KINDS = ("DivergedError", "ConfigError")


class Controller:
    """See the module.

    Args:
        make_source: builds a prompt source from its name and section.
        is_resumed: whether to go on from the run's journal and newest checkpoint.
    """

    def __init__(self, context: ActorContext, make_source: MakeSource, *, is_resumed: bool) -> None:
        self.context = context
        self.config = config = context.config
        self._inbox = context.transport.open_inbox("control")
        self.endpoint = self._inbox.endpoint
        self._links = MemberLinks(context.transport)
        self._book = MemberBook()
        placement = config.placement
        self._fleet = Fleet(
            RestartPolicy(placement.max_restarts, placement.restart_window_s),
            config.monitoring.heartbeat_timeout_s,
            placement.start_timeout_s,
        )
        self._work = WorkDesk(config, make_source, context.run_dir.journal, is_resumed=is_resumed)
        noted = self._work.noted("learner_incarnation")
        self._learner_incarnation = -1 if noted is None else int(noted)
        self._steps = StepLog(context.run_dir)
        self.changes = LiveChanges(
            config, context.run_dir, work=self._work, fleet=self._fleet, book=self._book, links=self._links,
            steps=self._steps, spawn=self._spawn, tell_members=self._tell_members, is_resumed=is_resumed,
        )  # fmt: skip
        self._admission_moved = asyncio.Condition()
        self._weights: WeightsAnnouncement | None = None
        self._checkpoint: dict[str, Any] | None = self._work.noted("checkpoint") if is_resumed else None
        self._is_paused = False
        self._stop_at_s: float | None = None
        self._stopping = ""
        self._failure = ""
        self._is_finished = False
        self._told_launcher = asyncio.Event()
        self._somebody_left = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._steps.event("controller_started", author=CONTROLLER_ID, is_resumed=is_resumed)

    # -- life

    async def live(self) -> None:
        """Serve until the run has ended and the launcher knows."""
        now_s = monotonic_s()
        config = self.config
        for role, num in (config.roster.counts | self.changes.counts).items():
            if role != Role.CONTROLLER:
                self._fleet.want(role, num, now_s)
        self._fleet.adopt(self._work.noted("incarnations") or {})
        loops = [asyncio.create_task(self._serve(), name="serve"), asyncio.create_task(self._tick(), name="tick")]
        try:
            told = asyncio.create_task(self._told_launcher.wait())
            done, _ = await asyncio.wait([told, *loops], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {told}:
                task.result()
            await asyncio.sleep(TICK_S)  # the answer that told the launcher is still on its way
        finally:
            for task in (told, *loops, *self._tasks):
                task.cancel()
            await asyncio.gather(told, *loops, *self._tasks, return_exceptions=True)
            await self._links.close()
            await self._inbox.close()
            await self.context.transport.close()
            self._work.close()
            self._steps.close()
            self.context.tracer.close()

    async def _serve(self) -> None:
        """Consumes messages of actors and launcher / produces answers / waits for the next / freed by anybody."""
        while True:
            delivery = await self._inbox.receive()
            if isinstance(delivery.message, ReserveGroups):
                self._spawn(self._reserve(delivery))  # may wait for admission; nobody else does
                continue
            try:
                answer = await self._handle(delivery.sender, delivery.message)
                if isinstance(answer, Done):
                    delivery.ack()
                else:
                    delivery.reply(answer)
            except RingAsyncError as refusal:
                delivery.refuse(str(refusal))

    async def _tick(self) -> None:
        """Consumes time / produces expiries and the end of the run / waits a moment / freed by time."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = monotonic_s()
            for change in self._fleet.expire(now_s):
                await self._apply_fleet(change)
            self._record_failures(self._work.expire())
            self._work.ledger.check()
            if self._stop_at_s is not None and now_s > self._stop_at_s:
                self.shut_down(f"stop.wall_s: {self.config.stop.wall_s:.0f} s of training", STOP_DEADLINE_S)
            self._book.export()
            self.context.transport.observe()
            for state, number in self._work.ledger.counts().items():
                metrics.controller_trajectories.labels(state=state).set(number)
            async with self._admission_moved:
                self._admission_moved.notify_all()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the controller failed", exc_info=error)
            self._fail(f"the controller: {error!r}")

    # -- messages

    async def _handle(self, sender: str, message: Message) -> Message:
        match message:
            case Heartbeat(actor_id, incarnation):
                return self._beat(message, self._fleet.saw(actor_id, incarnation, monotonic_s()))
            case Register(member):
                return await self._register(member)
            case RenewLeases(group_ids):
                return LeasesRenewed(self._work.renew(sender, group_ids))
            case GroupsFailed(group_ids, cause):
                self._record_failures(self._work.give_back(group_ids, cause))
            case VerifierFailing():
                self._pause_domain(message)
            case TrajectoriesMoved(states):
                self._work.moved(states)
            case BufferReported():
                self._work.observe_buffer(sender, message)
            case StepCompleted():
                self._step(message)
            case WeightsPublished(announcement):
                self._publish(announcement)
            case WeightsAdopted():
                pass
            case CheckpointSaved():
                self._checkpoint_saved(message)
            case VersionEvaluated():
                self._steps.evaluation(message, author=sender)
            case RunFailed(actor_id, kind, detail):
                self._incident(actor_id, kind, detail)
            case ReportFleet():
                await self._take_report(message)
                return self._wanted()
            case ReadVerifierFile(name):
                return VerifierFile(await asyncio.to_thread(read_kept, self.context.run_dir.verifiers, name))
            case _:
                raise RefusedError(f"the controller does not take {type(message).__name__}")
        return Done()

    # -- work

    async def _reserve(self, delivery: Delivery) -> None:
        ask = delivery.message
        assert isinstance(ask, ReserveGroups)
        deadline_s = monotonic_s() + LONG_POLL_S
        while True:
            grant = self._grant(delivery.sender, ask)
            remaining_s = deadline_s - monotonic_s()
            if grant.num_groups or remaining_s <= 0:
                break
            async with self._admission_moved:
                try:
                    await asyncio.wait_for(self._admission_moved.wait(), remaining_s)
                except TimeoutError:
                    break
        try:
            reservations = self._work.issue(delivery.sender, min(grant.num_groups, ask.num_groups))
        except StorageError as full:  # stop admitting and say so; it goes on once there is space
            log.error("no reservation: %s", full)
            delivery.reply(GroupsReserved((), str(full)))
            return
        delivery.reply(GroupsReserved(reservations, grant.reason))

    def _grant(self, sender: str, ask: ReserveGroups) -> Grant:
        if self._stopping or self._is_paused:
            return Grant(0, "the run is paused" if self._is_paused else "the run is ending")
        if sender not in self._book.members or self._fleet.is_leaving(sender):
            return Grant(0, "not registered, or leaving")
        return self._work.grantable(ask.policy_version)

    def _record_failures(self, given_up: list[Returned]) -> None:
        for back in given_up:
            group_id = back.reservation.group_id
            self._steps.event("group_failed", author=back.owner, group_id=group_id, cause=back.cause)

    def _pause_domain(self, failing: VerifierFailing) -> None:
        """Nobody judges these sources now: stop asking for them, visibly, and train the rest.

        A verifier that came by a swap is rolled back instead.
        """
        sources = self.changes.handle_failing(failing)
        if set(sources) <= self._work.paused_sources:
            return
        self._steps.event("domain_paused", author=Role.REWARD, sources=sources, reason=failing.reason)
        if not self._work.pause_sources(sources):
            self._fail(f"every source is paused, the last for {failing.verifier}: {failing.reason}")

    # -- versions

    def _publish(self, announcement: WeightsAnnouncement) -> None:
        self._weights = announcement
        self._work.observe_version(announcement.policy_version)
        self.changes.version_reached(announcement.policy_version.number)
        for member in self._book.of(Role.ROLLOUT, Role.EVALUATOR):
            self._links.tell(member.actor_id, UseWeights(announcement))

    def _step(self, completed: StepCompleted) -> None:
        if self._stop_at_s is None and self.config.stop.wall_s is not None:
            self._stop_at_s = monotonic_s() + self.config.stop.wall_s
        generated = self._book.generated_tokens()
        self._steps.step(completed, generated_tokens=generated, buffer=self._work.buffer_report())

    def _checkpoint_saved(self, saved: CheckpointSaved) -> None:
        number = saved.policy_version.number
        self._checkpoint = {"path": saved.path, "plan_number": saved.plan_number, "version": number}
        self._work.note("checkpoint", self._checkpoint)
        for member in self._book.of(Role.REPLAY):
            self._links.tell(member.actor_id, CheckpointCovered(saved.plan_number))
        if number >= self.config.stop.policy_versions:
            self.shut_down("all policy versions trained", STOP_DEADLINE_S)

    # -- fleet

    async def _register(self, member: Member) -> Message:
        if not self._fleet.saw(member.actor_id, member.incarnation, monotonic_s()):
            raise RefusedError(f"{member.actor_id} incarnation {member.incarnation} is not part of this fleet")
        if self._book.join(member):
            self._links.open(member)
            if member.role == Role.LEARNER:
                self._learner_incarnation += 1
                self._work.note("learner_incarnation", self._learner_incarnation)
            self._steps.event(
                "joined", author=member.actor_id, incarnation=member.incarnation, pid=member.pid, host=member.host
            )
            self._tell_members()
            if member.role == Role.REPLAY and self._checkpoint:  # it may have been away when the checkpoint was made
                self._links.tell(member.actor_id, CheckpointCovered(self._checkpoint["plan_number"]))
        return Registered(
            members=self._staying(),
            weights=self._weights,
            is_paused=self._is_paused,
            resume_from=self._checkpoint["path"] if self._checkpoint else "",
            learner_incarnation=max(0, self._learner_incarnation),
            **self.changes.for_newcomer(),
        )

    def _beat(self, beat: Heartbeat, is_current: bool) -> HeartbeatSeen:
        if is_current:
            self._book.heard(beat)
        return HeartbeatSeen(is_known=is_current and beat.actor_id in self._book)

    async def _take_report(self, report: ReportFleet) -> None:
        now_s = monotonic_s()
        for gone in report.exits:
            await self._apply_fleet(
                self._fleet.exited(gone.actor_id, gone.incarnation, gone.cause, now_s, is_host_lost=gone.is_host_lost)
            )
        waiting = {(one.actor_id, one.incarnation): one.whom for one in report.waiting}
        for actor_id in self._fleet.seek_places(waiting, now_s):
            whom, _ = self._fleet.waits_for_place(now_s)[actor_id]
            log.warning("%s cannot start yet: it waits for %s", actor_id, whom)
            self._steps.event("actor_waiting", author=CONTROLLER_ID, actor=actor_id, whom=whom)

    async def _apply_fleet(self, change: FleetChange) -> None:
        if change.lost is None:
            return
        actor_id = change.lost.actor_id
        self._book.leave(actor_id)
        async with self._somebody_left:
            self._somebody_left.notify_all()
        self._links.drop(actor_id)
        if self._stopping:
            return
        kind = "actor_left" if change.has_left else "actor_lost"
        log.log(logging.INFO if change.has_left else logging.WARNING, change.notice)
        self._steps.event(kind, author=CONTROLLER_ID, actor=actor_id, notice=change.notice)
        if not change.has_left:
            metrics.controller_restarts.labels(role=change.lost.role).inc()
        self._record_failures(self._work.owner_lost(actor_id))
        self._work.note("incarnations", self._fleet.incarnations())
        self._tell_members()
        if change.given_up and change.lost.role == Role.EVALUATOR:  # the run needs it for nothing
            self._fleet.want(Role.EVALUATOR, 0, monotonic_s())
            self._steps.event("evaluator_given_up", author=CONTROLLER_ID, reason=change.given_up)
        elif change.given_up:
            self._fail(change.given_up)

    def _tell_members(self) -> None:
        news = MembersChanged(self._staying())
        for actor_id in self._book.members:
            self._links.tell(actor_id, news)

    def _staying(self) -> tuple[Member, ...]:
        """Members that others should turn to: not those on their way out."""
        return tuple(one for one in self._book.members.values() if not self._fleet.is_leaving(one.actor_id))

    def _wanted(self) -> FleetWanted:
        if self._is_finished:
            self._told_launcher.set()
            return FleetWanted((), is_finished=True, failure=self._failure)
        specs = self._fleet.wanted(monotonic_s())
        actors = tuple(spec for spec in specs if not self._stopping or spec.actor_id in self._book.members)
        return FleetWanted(actors, kept=self._fleet.actor_ids)

    def _incident(self, actor_id: str, kind: str, detail: str) -> None:
        self._steps.event("actor_failed", author=actor_id, error=kind, detail=detail)
        if kind in FATAL_KINDS:
            self._fail(f"{actor_id}: {kind}: {detail}")

    # -- what people may do (`control.api.Operations`)

    def status(self) -> dict[str, Any]:
        """The run as a person wants to see it: plain data."""
        now_s = monotonic_s()
        return {
            "run": self.config.run.name,
            "state": self._stopping or ("paused" if self._is_paused else "running"),
            "policy_version": self._work.version_number,
            "policy_versions": self.config.stop.policy_versions,
            "remaining_s": self._steps.remaining_s(self.config.stop.policy_versions),
            "actors": self._book.describe(self._fleet.wanted(now_s), self._fleet.waits_for_place(now_s)),
            "reservations_open": self._work.num_open,
            "ledger": self._work.ledger.counts(),
            "causes": self._work.ledger.causes(),
            "buffer": self._work.buffer_report(),
            "checkpoint": self._checkpoint,
            "paused_sources": sorted(self._work.paused_sources),
            "changes": self.changes.status(),
            "last_evaluation": self._steps.last_evaluation,
            "last_step": self._steps.recent_steps[-1] if self._steps.recent_steps else None,
            "events": list(self._steps.recent_events)[-10:],
        }

    def live_members(self) -> list[Member]:
        """All registered members, the controller first."""
        spec = self.context.spec
        own = Member(
            actor_id=spec.actor_id,
            role=Role.CONTROLLER,
            incarnation=spec.incarnation,
            pid=os.getpid(),
            host=self.context.host,
            control_endpoint=self.endpoint,
            metrics_endpoint=self.context.metrics_endpoint,
        )
        return [own, *self._book.members.values()]

    def calls_refused(self, refusal: Any) -> None:
        """The control API refused calls (a `control.guard.Refusal`)."""
        self._steps.event("calls_refused", author="api", **refusal._asdict())

    async def pause(self) -> None:
        """Stop granting work and training; what is under way finishes."""
        self._is_paused = True
        self._steps.event("paused", author="api")
        self._tell_all(Pause())

    async def resume(self) -> None:
        self._is_paused = False
        self._steps.event("resumed", author="api")
        self._tell_all(Resume())

    async def checkpoint(self) -> str:
        """Have the learner write a checkpoint between two steps; returns its path."""
        try:
            saved = await self._links.command(LEARNER_ID, SaveCheckpoint(""), timeout_s=300.0)
        except PeerTimeoutError as error:
            raise RunError(f"no checkpoint: {error}") from error
        assert isinstance(saved, CheckpointSaved)
        self._steps.event("checkpoint", author="api", path=saved.path)
        return saved.path

    def shut_down(self, reason: str, deadline_s: float) -> None:
        """End the run: a checkpoint where it is people who end it, then everybody leaves within the deadline."""
        if not self._stopping:
            self._stopping = reason
            self._steps.event("stopping", author=CONTROLLER_ID, reason=reason)
            self._spawn(self._stop(deadline_s))

    def _fail(self, reason: str) -> None:
        if not self._failure:
            self._failure = reason
            log.error("the run failed: %s", reason)
            self._steps.event("failed", author=CONTROLLER_ID, reason=reason)
        self.shut_down("failed", STOP_DEADLINE_S)

    async def _stop(self, deadline_s: float) -> None:
        end_s = monotonic_s() + deadline_s
        if not self._failure and self._work.version_number < self.config.stop.policy_versions:
            try:
                await self._links.command(LEARNER_ID, Pause(), timeout_s=deadline_s / 4)
                await self._links.command(LEARNER_ID, SaveCheckpoint(""), timeout_s=deadline_s / 2)
            except (PeerTimeoutError, RefusedError) as error:
                log.warning("no checkpoint before stopping: %s", error)
        is_trained = self._work.version_number >= self.config.stop.policy_versions
        for roles in LEAVING_ORDER:
            finish_s = 0.0 if is_trained else (end_s - monotonic_s()) / 4
            if is_trained and roles == (Role.EVALUATOR,) and self._book.of(*roles):
                finish_s = self.config.evaluation.finish_s  # the last version is the one people want to know about
                end_s = monotonic_s() + finish_s + STOP_DEADLINE_S
            await self._dismiss(roles, finish_s=finish_s, end_s=end_s)
        killed = sorted(self._book.members)
        outcome = {"reason": self._stopping, "failure": self._failure, "killed": killed}
        self._steps.event("stopped", author=CONTROLLER_ID, **outcome)
        where = {"policy_version": self._work.version_number, "checkpoint": (self._checkpoint or {}).get("path")}
        write_json(self.context.run_dir.outcome, outcome | where)
        self._is_finished = True

    async def _dismiss(self, roles: tuple[Role, ...], *, finish_s: float, end_s: float) -> None:
        """Have actors of these roles leave: `finish_s` to finish what is under way, until `end_s` to be gone."""
        leaving = [member.actor_id for member in self._book.of(*roles)]
        for actor_id in leaving:
            self._links.tell(actor_id, Shutdown(finish_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end_s - monotonic_s())), self._somebody_left:
                await self._somebody_left.wait_for(lambda: not self._book.members.keys() & set(leaving))

    def _tell_all(self, news: Message) -> None:
        for member in self._book.of(Role.ROLLOUT, Role.LEARNER):
            self._links.tell(member.actor_id, news)

"""The controller: it admits work, keeps the ledger of trajectories and supervises the fleet.

    rollouts ──ReserveGroups──▶ WorkRequests ──▶ Dispatcher, journal ──GroupsReserved──▶ rollouts
    replay   ──TrajectoriesMoved, BufferReported──▶ Dispatcher
    learner  ──StepCompleted, WeightsPublished, CheckpointSaved──▶ RunLog, Versions ──▶ rollouts, replay
    evaluator──VersionEvaluated──▶ RunLog
    launcher ──ReportFleet──▶ FleetShell ──FleetWanted──▶ launcher
    people   ──control API──▶ RunLife (pause, resume, down), LiveChanges, status

Owns: which part handles which message, and what the loss of an actor means for the run.
Decides nothing that `core` decides: who lives (`Fleet`), what is granted (`AdmissionLimiter`).
Invariants: a reservation is durable before a rollout hears of it; the event loop never waits on an actor without a
deadline; the run ends once, with one reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from ring_async.actors.base import ActorContext
from ring_async.actors.controller.batch_progress import BatchProgress
from ring_async.actors.controller.changes import LiveChanges
from ring_async.actors.controller.context import RunContext, RunNotes
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.failed_work import FailedWork
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.postponed import Postponed
from ring_async.actors.controller.prompts import MakeSource
from ring_async.actors.controller.run_history import RunHistory
from ring_async.actors.controller.run_life import RunLife
from ring_async.actors.controller.run_log import RunLog, sinks_of
from ring_async.actors.controller.status import describe_run
from ring_async.actors.controller.versions import Versions
from ring_async.actors.controller.work_requests import WorkRequests
from ring_async.actors.verifier_files import read_kept
from ring_async.clock import monotonic_s
from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.fleet import FleetChange
from ring_async.core.roster import CONTROLLER_ID, Role
from ring_async.core.work.ledger import LedgerError
from ring_async.errors import RefusedError
from ring_async.records.status import RunStatus
from ring_async.storage.journal import Journal
from ring_async.telemetry import metrics
from ring_async.telemetry.resources import observe_resources
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import BatchFailed, StepCompleted
from ring_async.transport.messages.changes import ReadVerifierFile, VerifierFailing, VerifierFile
from ring_async.transport.messages.fleet import (
    FleetWanted,
    Heartbeat,
    Holding,
    Member,
    Register,
    Registered,
    ReportFleet,
    RunFailed,
)
from ring_async.transport.messages.versions import (
    CheckpointPassedOver,
    CheckpointSaved,
    VersionEvaluated,
    WeightsAdopted,
    WeightsAnnouncement,
    WeightsPublished,
)
from ring_async.transport.messages.work import (
    BufferReported,
    GroupsFailed,
    LeasesRenewed,
    PromptRefused,
    RenewLeases,
    ReserveGroups,
    TrajectoriesMoved,
)

log = logging.getLogger(__name__)

TICK_S = 0.1
LATE_S = 1.0
"""A tick that comes later than this was held up by this process itself, or by its host."""
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
        self._inbox = context.transport.open_inbox("control", at=context.controller_endpoint)
        self.endpoint = self._inbox.endpoint
        self._journal = Journal(context.run_dir.journal)
        self._notes = RunNotes(self._journal, context.run_dir, is_resumed=is_resumed)
        is_fleet_alive = is_resumed and context.spec.incarnation > 0
        self._run_log = RunLog(
            context.run_dir, is_fleet_alive=is_fleet_alive, sinks=sinks_of(config, context.run_dir.path)
        )
        self._run = run = RunContext(
            config, context.run_dir, self._notes, self._run_log, self._spawn, is_fleet_alive=is_fleet_alive
        )
        self._fleet = FleetShell(run, context.transport, context.spec.incarnation)
        self._dispatcher = Dispatcher(
            config, make_source, self._journal, is_resumed=is_resumed, is_fleet_alive=is_fleet_alive
        )
        self._versions = Versions(run, self._fleet)
        self._life = RunLife(run, self._fleet, self._dispatcher, self._versions)
        self._failed = FailedWork(run, self._dispatcher, self._life)
        self.changes = LiveChanges(run, self._fleet, self._dispatcher, self._failed.set_aside)
        self.history = RunHistory(run, self.status, lambda: self.changes.knobs)
        self._batches = BatchProgress(config, self._fleet, self._dispatcher, self._life, self._journal.ledger)
        self._requests = WorkRequests(self._dispatcher, self._fleet, self._life, self._failed.record)
        self._postponed = Postponed(self._handle)
        self._has_told_launcher = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._run_log.event(EventKind.CONTROLLER_STARTED, author=CONTROLLER_ID, is_resumed=is_resumed)
        for lost in self._journal.damage:
            self._run_log.event(EventKind.JOURNAL_DAMAGED, author=CONTROLLER_ID, lost=lost)

    # -- life

    async def live(self) -> None:
        """Serve until the run has ended and the launcher knows."""
        self._fleet.start(self.config.roster.counts | self.changes.counts)
        self._dispatcher.keep_owners(self._fleet.wanted.actor_ids)
        self._life.open()
        loops = [asyncio.create_task(self._serve(), name="serve"), asyncio.create_task(self._tick(), name="tick")]
        loops.append(asyncio.create_task(self._requests.run(), name="grant"))
        loops.append(asyncio.create_task(self.history.run(), name="history"))
        loops.append(asyncio.create_task(self._observe_resources(), name="resources"))
        told = asyncio.create_task(self._has_told_launcher.wait())
        try:
            done, _ = await asyncio.wait([told, *loops], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {told}:
                task.result()
            await asyncio.sleep(TICK_S)  # the answer that tells the launcher of the end is still on its way
        finally:
            for task in (told, *loops, *self._tasks):
                task.cancel()
            await asyncio.gather(told, *loops, *self._tasks, return_exceptions=True)
            self._dispatcher.prompts.close()
            await self._fleet.links.close()
            await self._inbox.close()
            await self.context.transport.close()
            self._journal.close()
            self._run_log.close()
            self.context.tracer.close()

    async def _serve(self) -> None:
        """Consumes messages of actors and launcher / produces answers / waits for the next / freed by anybody."""
        while True:
            delivery = await self._inbox.receive()
            if isinstance(delivery.message, ReserveGroups):
                # in a task of its own: this answer may take long, and other messages must not wait for it
                self._spawn(self._requests.answer(delivery, delivery.message))
                continue
            await self._postponed.take(delivery)

    async def _tick(self) -> None:
        """Consumes time / produces expiries and the end of the run / waits a moment / freed by time."""
        ticked_s = monotonic_s()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = monotonic_s()
            if (late_s := now_s - ticked_s - TICK_S) > LATE_S:
                self._postpone(late_s)
            ticked_s = now_s
            for change in self._fleet.wanted.expire(now_s):
                await self._follow(change)
            self._failed.record(self._dispatcher.expire())
            self._journal.flush()
            self._run_log.flush()
            await self._postponed.retry()
            self._check_ledger()
            self._life.stop_if_time_is_up()
            self._batches.watch(now_s)
            metrics.controller_max_staleness.set(self._dispatcher.limiter.rules.max_staleness)
            self.context.transport.observe()
            for state, number in self._journal.ledger.counts().items():
                metrics.controller_trajectories.labels(state=state).set(number)
            self._requests.look_again()

    async def _observe_resources(self) -> None:
        """Consumes time / produces gauges of disk, GPU and members / waits as long as a heartbeat / freed by time."""
        while True:
            observe_resources(self.context.run_dir.path)
            self._fleet.members.export()
            await asyncio.sleep(self.config.monitoring.heartbeat_s)

    def _check_ledger(self) -> None:
        try:
            self._journal.ledger.check_changes()
        except LedgerError:
            metrics.controller_ledger_mismatches.inc()
            raise

    def _postpone(self, late_s: float) -> None:
        """This process stood still, and what members sent meanwhile is still unread: that was no silence of theirs."""
        log.warning("the controller stood still for %.1f s", late_s)
        self._fleet.wanted.postpone(late_s)
        self._dispatcher.leases.postpone(late_s)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the controller failed", exc_info=error)
            self._life.fail(f"the controller: {error!r}")

    # -- messages

    async def _handle(self, sender: str, message: Message) -> Message:
        match message:
            case Heartbeat():
                return self._fleet.beat(message)
            case Register(member, holding):
                return self._register(member, holding)
            case RenewLeases(group_ids):
                return LeasesRenewed(self._dispatcher.leases.renew(sender, group_ids, monotonic_s()))
            case GroupsFailed(group_ids, cause, detail):
                self._failed.record(self._dispatcher.give_back(group_ids, cause, owner=sender, detail=detail))
            case PromptRefused(group_id, reason):
                self._failed.drop(sender, group_id, reason)
            case BatchFailed(plan_number, cause):
                self._failed.batch(plan_number, cause, author=sender)
            case VerifierFailing():
                self.changes.handle_failing(message)
            case TrajectoriesMoved(states):
                self._dispatcher.moved(states)
            case BufferReported():
                self._dispatcher.observe_buffer(sender, message)
            case StepCompleted():
                self._life.start_clock()
                self._batches.trained()
                generated = self._fleet.members.generated_tokens()
                self._run_log.step(message, generated_tokens=generated, buffer=self._dispatcher.buffer_totals())
            case WeightsPublished(announcement):
                self._publish(announcement)
            case WeightsAdopted():
                pass
            case CheckpointSaved():
                self._versions.checkpoint_saved(message)
                saved = {"path": message.path, "policy_version": message.policy_version.number}
                self._run_log.event(EventKind.CHECKPOINT_SAVED, author=sender, **saved)
                self._life.stop_if_trained(message.policy_version.number)
            case CheckpointPassedOver(why, restored):
                self._run_log.event(EventKind.CHECKPOINT_PASSED_OVER, author=sender, why=why, restored=restored)
            case VersionEvaluated():
                self._run_log.evaluation(message, author=sender)
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

    # -- fleet

    def _publish(self, announcement: WeightsAnnouncement) -> None:
        if self._versions.publish(announcement):
            self._dispatcher.limiter.observe_version(announcement.policy_version)
            self.changes.version_reached(announcement.policy_version.number)

    def _register(self, member: Member, holding: Holding) -> Registered:
        """Let a member join. What it holds already is adopted: it lives on, and this controller restarted.

        What may meet a full disk comes first, so that a registration that is tried again finds nothing half done.
        """
        if self._fleet.is_newcomer(member):
            self._versions.number_learner(member, holding)
        if self._fleet.join(member):
            self._versions.joined(member)
            self._failed.record(self._dispatcher.adopt(member.actor_id, holding.group_ids))
            if holding.weights is not None:
                self._publish(holding.weights)
        checkpoint = self._versions.checkpoint
        return Registered(
            members=self._fleet.staying(),
            members_mark=self._fleet.members_mark,
            weights=self._versions.weights,
            is_paused=self._life.is_paused,
            resume_from=checkpoint["path"] if checkpoint else "",
            learner_incarnation=self._versions.learner_incarnation,
            skipped_batches=self._failed.skipped_batches,
            **self.changes.for_newcomer(),
        )

    async def _take_report(self, report: ReportFleet) -> None:
        for change in self._fleet.take_exits(report):
            await self._follow(change)
        self._fleet.take_waiting(report)

    async def _follow(self, change: FleetChange) -> None:
        """Carry out what the loss of an actor asks for: tell the others, reissue its groups, end the run if it cannot
        go on.
        """
        if change.lost is None:
            return
        actor_id = change.lost.actor_id
        await self._fleet.forget(actor_id)
        if self._life.is_stopping:
            return
        kind = EventKind.ACTOR_LEFT if change.has_left else EventKind.ACTOR_LOST
        log.log(logging.INFO if change.has_left else logging.WARNING, change.notice)
        self._run_log.event(kind, author=CONTROLLER_ID, actor=actor_id, notice=change.notice)
        if not change.has_left:
            metrics.controller_restarts.labels(role=change.lost.role).inc()
        self._failed.record(self._dispatcher.owner_lost(actor_id))
        self._fleet.note_incarnations()
        self._fleet.tell_members()
        if change.given_up and change.lost.role == Role.EVALUATOR:  # the run can go on without this actor
            self._fleet.wanted.want(Role.EVALUATOR, 0, monotonic_s())
            self._run_log.event(EventKind.EVALUATOR_GIVEN_UP, author=CONTROLLER_ID, reason=change.given_up)
        elif change.given_up:
            self._life.fail(change.given_up)

    def _wanted(self) -> FleetWanted:
        if self._life.state.is_end:
            self._has_told_launcher.set()
            return FleetWanted((), is_finished=True, failure=self._life.failure)
        specs = self._fleet.specs()
        members = self._fleet.members
        is_stopping = self._life.is_stopping
        is_kept = self._fleet.is_gathering or not is_stopping
        actors = tuple(spec for spec in specs if is_kept or spec.actor_id in members)
        return FleetWanted(actors, kept=self._fleet.wanted.actor_ids, may_start=not is_stopping)

    def _incident(self, actor_id: str, kind: str, detail: str) -> None:
        self._run_log.event(EventKind.ACTOR_FAILED, author=actor_id, error=kind, detail=detail)
        if kind in FATAL_KINDS:
            self._life.fail(f"{actor_id}: {kind}: {detail}")

    # -- what people may do (`control.api.Operations`)

    def status(self) -> RunStatus:
        """The run as a person wants to see it."""
        return describe_run(
            self._run, life=self._life, fleet=self._fleet, dispatcher=self._dispatcher, ledger=self._journal.ledger,
            versions=self._versions, changes=self.changes,
        )  # fmt: skip

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
        return [own, *self._fleet.members.by_id.values()]

    def calls_refused(self, refusal: Any) -> None:
        """The control API refused calls (a `control.guard.Refusal`)."""
        self._run_log.event(EventKind.CALLS_REFUSED, author="api", **refusal._asdict())

    def monitoring_lost(self, reason: str) -> None:
        """A service that people watch with cannot be reached; training goes on."""
        self._run_log.event(EventKind.MONITORING_LOST, author=CONTROLLER_ID, reason=reason)

    async def pause(self) -> None:
        """Stop granting work and batches; work under way finishes."""
        self._life.pause()

    async def resume(self) -> None:
        """Grant work and batches again."""
        self._life.resume()

    async def checkpoint(self) -> str:
        """Have the learner write a checkpoint between two steps; returns its path.

        Raises:
            RunError: the learner did not write one in time.
        """
        path = await self._versions.save_checkpoint()
        self._run_log.event(EventKind.CHECKPOINT, author="api", path=path)
        return path

    def shut_down(self, reason: str, deadline_s: float) -> None:
        """End the run; see `RunLife.shut_down`."""
        self._life.shut_down(reason, deadline_s)

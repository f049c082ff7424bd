"""The learner: it trains on batches of exactly Φ loss tokens, and publishes every version.

    replay ──BatchReady (Φ loss tokens, packed)──▶ train ──▶ version v+1 ──buckets──▶ rollouts
       ▲ asked for one batch ahead, at the version it will be consumed at
                                                     └─ publishing overlaps the next step

Owns: the model and optimizer (behind a `TrainEngine`), the policy version, learner checkpoints. The learner waits for
batches alone. Does not own what it trains on: the batch plan decides that; nor the other ranks, where it is rank 0 of
many (`learner_ranks`): they do what it does, in the same order.
Invariant: plan number n is consumed at version n − 1 and makes version n, so a restart from the checkpoint of version n
asks for plan n + 1 and is given the same plans, in the same order, as the process that was lost.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from ring_async.actors.base import REQUEST_TIMEOUT_S, Actor, ActorContext
from ring_async.actors.batch_tries import BatchTries
from ring_async.actors.learner_ranks.group import RankGroup
from ring_async.actors.learner_ranks.orders import BATCH_POLL_S, Capture, Fetch, Order, Publish, Restore, Train, Tune
from ring_async.actors.waits import ask_until_answered, until_stopped
from ring_async.batches import BatchPlan, PackedBatch
from ring_async.clock import monotonic_s
from ring_async.config.tunable import knobs_of
from ring_async.core.fleet.states import WaitCause
from ring_async.core.rank_batches import RankShare
from ring_async.core.roster import PLANNER_ID, Role
from ring_async.errors import ActorFailedError, RefusedError, StorageError
from ring_async.records.figures import LearnerFigures
from ring_async.records.steps import step_record
from ring_async.storage.trained_tokens import TrainedTokensFile
from ring_async.telemetry import metrics
from ring_async.telemetry.idle import IdleMeter
from ring_async.telemetry.observe import observe_step
from ring_async.training.base import SavedState, StepReport, TrainEngine, WeightsSnapshot
from ring_async.training.checkpoint import CheckpointStore
from ring_async.transport.batch_wire import read_batch
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import BatchNotReady, BatchReady, RequestBatch, StepCompleted
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.fleet import Holding, Pause, Registered, Resume
from ring_async.transport.messages.versions import (
    CheckpointPassedOver,
    CheckpointSaved,
    SaveCheckpoint,
    WeightsAnnouncement,
    WeightsPublished,
)
from ring_async.transport.weights.base import WeightSender
from ring_async.types import PolicyVersion

log = logging.getLogger(__name__)
T = TypeVar("T")


class Rows(NamedTuple):
    """The part of a batch that this rank trains on; all of it, and no share, where the rank is alone."""

    batch: PackedBatch
    share: RankShare | None


class Learner(Actor):
    """Trains and publishes.

    Args:
        context: of the actor.
        make_engine: builds the train engine, on the compute thread.
        sender: of weights.
        ranks: the other ranks; None: it trains alone.
    """

    role: ClassVar[Role] = Role.LEARNER

    def __init__(
        self,
        context: ActorContext,
        make_engine: Callable[[], TrainEngine],
        sender: WeightSender,
        ranks: RankGroup | None = None,
    ) -> None:
        super().__init__(context)
        self._make_engine = make_engine
        self.sender = sender
        self._engine: TrainEngine | None = None
        self._ranks = ranks
        self._version: PolicyVersion | None = None
        self._resume_from: Path | None = None
        self._lineage: int | None = None
        self._knobs: dict[str, Any] = {}
        self._started = asyncio.Event()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._tries = BatchTries(self)
        self._busy = asyncio.Lock()
        """Lock of the train engine: held for a step, a checkpoint or a change of settings."""
        self._checkpoints = CheckpointStore(context.run_dir.checkpoints, keep=self.config.checkpoint.keep)
        self._trained_tokens = TrainedTokensFile(context.run_dir.trained_tokens)
        self._publishing: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[CheckpointSaved] | None = None
        self._published: WeightsAnnouncement | None = None
        self._published_s = 0.0
        self._is_starved = False
        """Whether there is nothing to train until a batch comes."""
        self._idle = IdleMeter(metrics.learner_waiting_seconds)
        self._num_steps = 0
        self._busy_s = 0.0

    async def open(self) -> None:
        started = await self._ranks.start() if self._ranks else None
        self._engine = await self.on_compute(self._make_engine)
        if started is not None:
            await started

    async def joined(self, registered: Registered) -> None:
        if registered.is_paused:
            self._unpaused.clear()
        else:
            self._unpaused.set()
        self._knobs = knobs_of(Role.LEARNER, registered.knobs)
        self._tries.adopt(registered.skipped_batches)
        if self._lineage is None:
            self._lineage = registered.learner_incarnation
            self._resume_from = Path(registered.resume_from) if registered.resume_from else None
            self._started.set()

    def holds(self) -> Holding:
        return Holding(learner_incarnation=self._lineage, weights=self._published)

    async def close(self) -> None:
        self.sender.close()
        if self._ranks is not None:
            await self._ranks.close()
        if self._engine is not None:
            await self.on_compute(self._engine.close)

    def parts(self) -> dict[str, object]:
        return super().parts() | {"sender": self.sender}

    def counters(self) -> LearnerFigures:
        self._idle.flush()
        version = self._version.number if self._version else None
        return LearnerFigures(
            steps=self._num_steps, busy_s=self._busy_s, policy_version=version, is_starved=self._is_starved
        )

    async def on_command(self, message: Message) -> Message:
        match message:
            case Pause():
                self._unpaused.clear()
            case Resume():
                self._unpaused.set()
            case TuneKnobs(knobs):
                async with self._busy:
                    own = knobs_of(Role.LEARNER, knobs)
                    await self._on_ranks(Tune(own), self.engine.tune, own)
            case SaveCheckpoint():
                async with self._busy:
                    writing = await self._save_checkpoint()
                return await writing
            case _:
                return await super().on_command(message)
        return Done()

    @property
    def engine(self) -> TrainEngine:
        if self._engine is None:
            raise ActorFailedError(f"{self.actor_id}: the model is not loaded yet")
        return self._engine

    async def main(self) -> None:
        training = asyncio.create_task(self._train(), name="train")
        await until_stopped(self.stopping, training)
        for task in (self._publishing, self._writing):
            if task is not None:
                await task
        async with self.waits.on("the controller to end the run"):
            await self.stopping.wait()

    async def _train(self) -> None:
        """Consumes batches / produces versions / waits for replay / freed by Φ eligible tokens."""
        assert self._lineage is not None
        number = await self._restore()
        await self._on_ranks(Tune(self._knobs), self.engine.tune, self._knobs)
        self._version = PolicyVersion(self._lineage, number)
        await self._publish(self._version, await self._snapshot())
        last_number = self.config.stop.policy_versions
        ahead: asyncio.Task[Rows] | None = None
        try:
            while number < last_number:
                wait_began_s = monotonic_s()
                self._is_starved = True
                with self._idle.waiting(WaitCause.BATCH):
                    rows = await (ahead or asyncio.create_task(self._next_batch(number + 1)))
                self._is_starved = False
                ahead = None
                if self.config.mode == "async" and number + 1 < last_number:
                    ahead = asyncio.create_task(self._next_batch(number + 2), name="prefetch")
                with self._idle.waiting(WaitCause.PAUSED):
                    await self._unpaused.wait()
                wait_s = monotonic_s() - wait_began_s
                async with self._busy:
                    report = await self._step(rows)
                    number += 1
                    self._version = PolicyVersion(self._lineage, number)
                    await self._after_step(rows.batch.plan, report, wait_s)
                    if number % self.config.checkpoint.every_versions == 0 or number == last_number:
                        await self._save_checkpoint()
        finally:
            if ahead is not None:
                ahead.cancel()

    # -- batches

    async def _next_batch(self, plan_number: int) -> Rows:
        """This rank's rows of a batch, once every other rank has its own too."""
        assert self._lineage is not None
        version = PolicyVersion(self._lineage, plan_number - 1)
        data_rank = None if self._ranks is None else 0
        ask = RequestBatch(plan_number, version, BATCH_POLL_S, data_rank)
        await self.registered(Role.REPLAY, PLANNER_ID)
        whom = f"batch {plan_number} from {PLANNER_ID}"
        others = asyncio.create_task(self._fetch_on_ranks(plan_number, version))
        async with self.waits.on(whom, cause=WaitCause.BATCH) as wait:
            while True:
                answer = await ask_until_answered(
                    lambda: self.data_link(PLANNER_ID).request(ask, timeout_s=BATCH_POLL_S + REQUEST_TIMEOUT_S)
                )
                match answer.message:
                    case BatchReady():
                        await others
                        return Rows(read_batch(answer.buffers), answer.message.share)
                    case BatchNotReady(reason):
                        wait.whom = f"{whom}: {reason}"

    async def _fetch_on_ranks(self, plan_number: int, version: PolicyVersion) -> None:
        """Have every other rank fetch its rows; tell them where replay is again if it moves."""
        if self._ranks is None:
            return
        fetched: set[asyncio.Future[None]] = set()
        known = ""
        while True:
            endpoint = self.members[PLANNER_ID].data_endpoint if PLANNER_ID in self.members else known
            if endpoint != known:
                fetched.add(self._ranks.order(Fetch(plan_number, version, endpoint)))
                known = endpoint
            _, under_way = await asyncio.wait(fetched, timeout=BATCH_POLL_S)
            if not under_way:
                return

    async def _step(self, rows: Rows) -> StepReport:
        began_s = monotonic_s()
        with self.tracer.span("train"):
            number = rows.batch.plan.plan_number
            train = functools.partial(self._on_ranks, Train(number), self.engine.train_batch, rows.batch, rows.share)
            report = await self._tries.train(number, train)
        self._busy_s += monotonic_s() - began_s
        self._num_steps += 1
        metrics.learner_steps.inc(report.num_optimizer_steps)
        metrics.learner_loss_tokens.inc(report.loss_tokens)
        metrics.learner_step_seconds.observe(report.seconds)
        return report

    async def _on_ranks(self, order: Order, function: Callable[..., T], *args: Any) -> T:
        """Run a function of the engine on the compute thread, and on every other rank.

        Both are on their way before this first waits, so every rank computes in the same order.
        """
        if self._ranks is None:
            return await self.on_compute(function, *args)
        others, own = self._ranks.order(order), asyncio.ensure_future(self.on_compute(function, *args))
        return await self._ranks.together(own, others)

    async def _after_step(self, plan: BatchPlan, report: StepReport, wait_s: float) -> None:
        assert self._version is not None
        version = self._version
        publish_s = self._published_s
        if self._publishing is not None:
            with self._idle.waiting(WaitCause.PUBLISH):
                await self._publishing
        # Taken here, since a task that took it could come behind the next step, whose batch may be here already.
        snapshot = await self._snapshot()
        self._publishing = asyncio.create_task(self._publish(version, snapshot), name="publish")
        own = {
            "token_budget": plan.token_budget,
            "loss_tokens": report.loss_tokens,
            "step_s": report.seconds,
            "wait_batch_s": wait_s,
            "publish_s": publish_s,
            "tokens_per_s": report.loss_tokens / max(report.seconds + wait_s, 1e-9),
            "verifier_epoch": plan.verifier_epoch,
            "mixture_epoch": plan.mixture_epoch,
        }
        self._trained_tokens.append(report.tokens)
        observe_step(step_record(report.metrics | own | {"policy_version": version.number}))
        completed = StepCompleted(plan.plan_number, version, report.metrics | own)
        sent = await self.controller.send(completed, message_id=f"step-{version}")
        sent.add_done_callback(_log_failure)

    # -- versions

    async def _snapshot(self) -> WeightsSnapshot:
        """The present weights, copied on the compute thread."""
        return await self._on_ranks(Publish(), self.engine.snapshot)

    async def _publish(self, version: PolicyVersion, snapshot: WeightsSnapshot) -> None:
        """Publish a version's snapshot while the next step runs."""
        began_s = monotonic_s()
        with self.tracer.async_span("publish", str(version)):
            announcement = await asyncio.to_thread(self._send, version, snapshot)
        self._published = announcement
        self._published_s = monotonic_s() - began_s
        metrics.learner_publish_seconds.observe(self._published_s)
        sent = await self.controller.send(WeightsPublished(announcement), message_id=f"weights-{version}")
        sent.add_done_callback(_log_failure)

    def _send(self, version: PolicyVersion, snapshot: WeightsSnapshot) -> WeightsAnnouncement:
        try:
            return self.sender.publish(version, snapshot.tensors(), snapshot.shapes)
        finally:
            snapshot.close()

    async def _save_checkpoint(self) -> asyncio.Task[CheckpointSaved]:
        """Copy the state between two steps; returns the writing of it, which goes on while the next step runs.

        One checkpoint is written at a time.
        """
        if self._version is None:
            raise RefusedError(f"{self.actor_id} has not restored its model yet: there is nothing new to save")
        if self._writing is not None:
            await self._writing
        with self.tracer.span("checkpoint"):
            saved = await self._on_ranks(Capture(), self.engine.capture)
        self._writing = asyncio.create_task(self._write_checkpoint(self._version, saved), name="checkpoint")
        return self._writing

    async def _write_checkpoint(self, version: PolicyVersion, state: SavedState) -> CheckpointSaved:
        """Write a checkpoint. Plan n made version n, so the version's number is that of the last plan covered."""
        loop, ranks = asyncio.get_running_loop(), self._ranks
        began_s = monotonic_s()

        def write(folder: Path) -> None:
            others = asyncio.run_coroutine_threadsafe(ranks.write(folder), loop) if ranks else None
            state.write(folder)
            if others is not None:
                others.result()

        path = await self._written_when_there_is_room(version, write)
        metrics.learner_checkpoint_seconds.observe(monotonic_s() - began_s)
        saved = CheckpointSaved(str(path), version.number, version)
        sent = await self.controller.send(saved, message_id=f"checkpoint-{version}")
        sent.add_done_callback(self._checkpoint_noted)
        return saved

    async def _written_when_there_is_room(self, version: PolicyVersion, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint; on a full disk, try until it can be written. The next checkpoint waits for it."""
        while True:
            try:
                return await asyncio.to_thread(self._checkpoints.save, version, version.number, write)
            except StorageError as error:
                log.error("%s: %s", self.actor_id, error)
                await self.waits.for_space(error)

    def _checkpoint_noted(self, sent: asyncio.Future[None]) -> None:
        """Remove the oldest checkpoints, now that the run's journal names the newest one."""
        _log_failure(sent)
        if not sent.cancelled() and sent.exception() is None:
            asyncio.get_running_loop().run_in_executor(self.compute, self._checkpoints.forget_old)

    async def _restore(self) -> int:
        await self._started.wait()
        if self._resume_from is None:
            return 0
        checkpoint, problems = await self.on_compute(self._checkpoints.restorable, self._resume_from)
        for why in problems:
            log.error("%s: %s; going back to %s", self.actor_id, why, checkpoint.folder)
            await self.ask_controller(CheckpointPassedOver(why, str(checkpoint.folder)))
        await self._on_ranks(Restore(str(checkpoint.folder)), self.engine.restore, checkpoint.folder)
        log.info("%s: restored version %s from %s", self.actor_id, checkpoint.policy_version, checkpoint.folder)
        return checkpoint.policy_version.number


def _log_failure(sent: asyncio.Future[None]) -> None:
    if not sent.cancelled() and sent.exception() is not None:
        log.warning("the controller refused a report: %s", sent.exception())

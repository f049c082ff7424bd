"""The learner: it trains on batches of exactly Φ loss tokens, and publishes every version.

    replay ──BatchReady (Φ loss tokens, packed)──▶ train ──▶ version v+1 ──buckets──▶ rollouts
       ▲ asked for one batch ahead, at the version it will be consumed at
                                                     └─ publishing overlaps the next step

Owns: the model and optimizer (behind a `TrainEngine`), the policy version, learner checkpoints. The learner waits for
batches alone. Does not own what it trains on: the batch plan decides that.
Invariant: plan number n is consumed at version n − 1 and makes version n, so a restart from the checkpoint of version n
asks for plan n + 1 and is given the same plans, in the same order, as the process that was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ring_async.actors.base import REQUEST_TIMEOUT_S, Actor, ActorContext
from ring_async.actors.waits import ask_until_answered, until_stopped
from ring_async.batches import PackedBatch
from ring_async.clock import monotonic_s
from ring_async.config.tunable import knobs_of
from ring_async.core.roster import PLANNER_ID, Role
from ring_async.errors import ActorFailedError, RefusedError
from ring_async.records.figures import LearnerFigures, WaitCause
from ring_async.records.steps import step_record
from ring_async.telemetry import metrics
from ring_async.telemetry.idle import IdleMeter
from ring_async.telemetry.observe import observe_step
from ring_async.training.base import StepReport, TrainEngine, WeightsSnapshot
from ring_async.training.checkpoint import CheckpointStore
from ring_async.transport.batch_wire import read_batch
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import BatchNotReady, BatchReady, RequestBatch, StepCompleted
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.fleet import Holding, Pause, Registered, Resume
from ring_async.transport.messages.versions import (
    CheckpointSaved,
    SaveCheckpoint,
    WeightsAnnouncement,
    WeightsPublished,
)
from ring_async.transport.weights.base import WeightSender
from ring_async.types import PolicyVersion

log = logging.getLogger(__name__)

BATCH_POLL_S = 5.0
"""How long replay may hold a request for a batch before it answers why there is none."""


class Learner(Actor):
    """Trains and publishes. Args: `make_engine` builds the train engine from a model or checkpoint folder, on the
    compute
    thread.
    """

    role: ClassVar[Role] = Role.LEARNER

    def __init__(self, context: ActorContext, make_engine: Callable[[], TrainEngine], sender: WeightSender) -> None:
        super().__init__(context)
        self._make_engine = make_engine
        self.sender = sender
        self._engine: TrainEngine | None = None
        self._version: PolicyVersion | None = None
        self._resume_from: Path | None = None
        self._lineage: int | None = None
        self._knobs: dict[str, Any] = {}
        self._started = asyncio.Event()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._busy = asyncio.Lock()
        """Lock of the train engine: held for a step, a checkpoint or a change of settings."""
        self._checkpoints = CheckpointStore(context.run_dir.checkpoints, keep=self.config.checkpoint.keep)
        self._publishing: asyncio.Task[None] | None = None
        self._published: WeightsAnnouncement | None = None
        self._published_s = 0.0
        self._is_starved = False
        """Whether there is nothing to train until a batch comes."""
        self._idle = IdleMeter(metrics.learner_waiting_seconds)
        self._num_steps = 0
        self._busy_s = 0.0

    async def open(self) -> None:
        self._engine = await self.on_compute(self._make_engine)

    async def joined(self, registered: Registered) -> None:
        if registered.is_paused:
            self._unpaused.clear()
        else:
            self._unpaused.set()
        self._knobs = knobs_of(Role.LEARNER, registered.knobs)
        if self._lineage is None:
            self._lineage = registered.learner_incarnation
            self._resume_from = Path(registered.resume_from) if registered.resume_from else None
            self._started.set()

    def holds(self) -> Holding:
        return Holding(learner_incarnation=self._lineage, weights=self._published)

    async def close(self) -> None:
        self.sender.close()
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
                    await self.on_compute(self.engine.tune, knobs_of(Role.LEARNER, knobs))
            case SaveCheckpoint():
                async with self._busy:
                    return await self._save_checkpoint()
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
        if self._publishing is not None:
            await self._publishing
        async with self.waits.on("the controller to end the run"):
            await self.stopping.wait()

    async def _train(self) -> None:
        """Consumes batches / produces versions / waits for replay / freed by Φ eligible tokens."""
        assert self._lineage is not None
        number = await self._restore()
        await self.on_compute(self.engine.tune, self._knobs)
        self._version = PolicyVersion(self._lineage, number)
        await self._publish(self._version)
        last_number = self.config.stop.policy_versions
        ahead: asyncio.Task[PackedBatch] | None = None
        try:
            while number < last_number:
                wait_began_s = monotonic_s()
                self._is_starved = True
                with self._idle.waiting(WaitCause.BATCH):
                    batch = await (ahead or asyncio.create_task(self._next_batch(number + 1)))
                self._is_starved = False
                ahead = None
                if self.config.mode == "async" and number + 1 < last_number:
                    ahead = asyncio.create_task(self._next_batch(number + 2), name="prefetch")
                with self._idle.waiting(WaitCause.PAUSED):
                    await self._unpaused.wait()
                wait_s = monotonic_s() - wait_began_s
                async with self._busy:
                    report = await self._step(batch)
                    number += 1
                    self._version = PolicyVersion(self._lineage, number)
                    await self._after_step(batch, report, wait_s)
                    if number % self.config.checkpoint.every_versions == 0 or number == last_number:
                        await self._save_checkpoint()
        finally:
            if ahead is not None:
                ahead.cancel()

    # -- batches

    async def _next_batch(self, plan_number: int) -> PackedBatch:
        assert self._lineage is not None
        ask = RequestBatch(plan_number, PolicyVersion(self._lineage, plan_number - 1), BATCH_POLL_S)
        await self.registered(Role.REPLAY, PLANNER_ID)
        whom = f"batch {plan_number} from {PLANNER_ID}"
        async with self.waits.on(whom, cause=WaitCause.BATCH) as wait:
            while True:
                answer = await ask_until_answered(
                    lambda: self.data_link(PLANNER_ID).request(ask, timeout_s=BATCH_POLL_S + REQUEST_TIMEOUT_S)
                )
                match answer.message:
                    case BatchReady():
                        return read_batch(answer.buffers)
                    case BatchNotReady(reason):
                        wait.whom = f"{whom}: {reason}"

    async def _step(self, batch: PackedBatch) -> StepReport:
        began_s = monotonic_s()
        with self.tracer.span("train"):
            report = await self.on_compute(self.engine.train_batch, batch)
        self._busy_s += monotonic_s() - began_s
        self._num_steps += 1
        metrics.learner_steps.inc(report.num_optimizer_steps)
        metrics.learner_loss_tokens.inc(report.loss_tokens)
        metrics.learner_step_seconds.observe(report.seconds)
        return report

    async def _after_step(self, batch: PackedBatch, report: StepReport, wait_s: float) -> None:
        assert self._version is not None
        version = self._version
        publish_s = self._published_s
        if self._publishing is not None:
            with self._idle.waiting(WaitCause.PUBLISH):
                await self._publishing
        self._publishing = asyncio.create_task(self._publish(version), name="publish")
        plan = batch.plan
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
        observe_step(step_record(report.metrics | own | {"policy_version": version.number}))
        completed = StepCompleted(plan.plan_number, version, report.metrics | own)
        sent = await self.controller.send(completed, message_id=f"step-{version}")
        sent.add_done_callback(_log_failure)

    # -- versions

    async def _publish(self, version: PolicyVersion) -> None:
        """Take a snapshot of the weights on the compute thread, then publish it while the next step runs."""
        began_s = monotonic_s()
        with self.tracer.async_span("publish", str(version)):
            snapshot = await self.on_compute(self.engine.snapshot)
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

    async def _save_checkpoint(self) -> CheckpointSaved:
        """Write a checkpoint between two steps. Plan n made version n, so the version's number is that of the last plan
        covered.
        """
        if self._version is None:
            raise RefusedError(f"{self.actor_id} has not restored its model yet: there is nothing new to save")
        version = self._version
        began_s = monotonic_s()
        with self.tracer.span("checkpoint"):
            path = await self.on_compute(self._checkpoints.save, version, version.number, self.engine.save)
        metrics.learner_checkpoint_seconds.observe(monotonic_s() - began_s)
        saved = CheckpointSaved(str(path), version.number, version)
        sent = await self.controller.send(saved, message_id=f"checkpoint-{version}")
        sent.add_done_callback(_log_failure)
        return saved

    async def _restore(self) -> int:
        await self._started.wait()
        if self._resume_from is None:
            return 0
        checkpoint = await self.on_compute(self._checkpoints.read, self._resume_from)
        await self.on_compute(self.engine.restore, self._resume_from)
        log.info("%s: restored version %s from %s", self.actor_id, checkpoint.policy_version, self._resume_from)
        return checkpoint.policy_version.number


def _log_failure(sent: asyncio.Future[None]) -> None:
    if not sent.cancelled() and sent.exception() is not None:
        log.warning("the controller refused a report: %s", sent.exception())

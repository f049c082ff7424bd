"""The replay actor: it keeps scored groups durably, and hands out batches of exactly Φ loss tokens.

    reward ──GroupScored──▶ [pending] ──one commit──▶ acknowledged ──▶ buffer
    learner ──RequestBatch──▶ plan ──logged──▶ BatchReady (packed rows)          replay-0, the planner, alone
    rollout ──HandOverPartials, ReadPartials──▶ unfinished responses
    planner ──OfferGroups, ConsumePlan──▶ open groups, their tokens              the other shards, if there are any
    controller ◀──TrajectoriesMoved, BufferReported── what became of every trajectory

Owns: one `ReplayShard` and the thread that calls it. Does not own what is trained or dropped (`core.replay`), nor the
reports to the controller (`reports`).
Invariants: a group is acknowledged after its commit; a batch leaves after its plan is logged; the controller hears of
every trajectory, if need be from the store after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, ClassVar, TypeVar

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.replay.planner import BatchPlanner, answer_planner
from ring_async.actors.replay.reports import Reports
from ring_async.actors.replay.rescorer import Rescorer
from ring_async.actors.replay.rules import advantage_rules, buffer_rules, tuned_rules
from ring_async.actors.replay.unfinished import answer_rollout
from ring_async.actors.waits import until_stopped
from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import WaitCause
from ring_async.core.rank_batches import batch_of_rank
from ring_async.core.replay.intake import IntakeOutcome, Receipt
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.roster import PLANNER_ID, Role
from ring_async.errors import RefusedError, RingAsyncError, StorageError
from ring_async.records.figures import ReplayFigures
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.telemetry import metrics
from ring_async.transport.base import Delivery
from ring_async.transport.batch_wire import batch_buffers
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import (
    BatchNotReady,
    BatchReady,
    ConsumePlan,
    OfferGroups,
    RequestBatch,
)
from ring_async.transport.messages.changes import ApplyEpochRules, TuneKnobs
from ring_async.transport.messages.fleet import Pause, Registered, Resume
from ring_async.transport.messages.versions import CheckpointCovered
from ring_async.transport.messages.work import BufferReported, GroupScored, HandOverPartials, ReadPartials
from ring_async.types import EpochRules, Group

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_COMMIT_BYTES = 64 << 20
"""Payload of one commit; more waits for the next, so that acknowledgements stay prompt."""

SHORTEST_WAIT_S = 1e-3
"""Shorter waits are skipped: a remainder left by rounding can be too small to move a clock."""


class Replay(Actor):
    role: ClassVar[Role] = Role.REPLAY

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._shard: ReplayShard | None = None
        self._pending: list[tuple[Delivery, Group]] = []
        self._arrived = asyncio.Event()
        self._changed = asyncio.Condition()
        self._num_waiting_questions = 0
        self._num_wakeups = 0
        """How often the waiting questions were woken; a question that finds it unchanged has missed no change."""
        self._trouble = ""
        self._swap_wait_s = 0.0
        """Time that the shard's thread spent on new epoch rules."""
        self._rescorer: Rescorer | None = None
        self._planner: BatchPlanner | None = None
        self._reports: Reports | None = None

    # -- life

    async def open(self) -> None:
        self._shard = await self.on_compute(self._open_shard)
        if self.actor_id == PLANNER_ID:
            self._planner = BatchPlanner(self, self._shard)
        self._rescorer = Rescorer(self, self._shard, self._wake)
        self._reports = Reports(self, self._shard, lambda: self._num_waiting_questions > 0)
        log.info(
            "%s: %d groups and %d trainable tokens read back, next batch is %d",
            self.actor_id, len(self.shard.buffer), self.shard.buffer.trainable_tokens, self.shard.buffer.last_plan + 1,
        )  # fmt: skip
        self.open_data_inbox()

    async def joined(self, registered: Registered) -> None:
        """Report again to a controller that may have restarted: what it has not acknowledged, then what is held."""
        await self._apply_knobs(registered.knobs)
        await self._bar(registered.epoch_rules)
        self.reports.start_over()

    async def close(self) -> None:
        if self._shard is not None:
            await self.on_compute(self._shard.close)

    @property
    def shard(self) -> ReplayShard:
        assert self._shard is not None, "the store is not open yet"
        return self._shard

    @property
    def rescorer(self) -> Rescorer:
        assert self._rescorer is not None, "the store is not open yet"
        return self._rescorer

    @property
    def reports(self) -> Reports:
        assert self._reports is not None, "the store is not open yet"
        return self._reports

    def counters(self) -> ReplayFigures | None:
        if self._shard is None:
            return None
        buffer, ended = self._shard.buffer, dict(self._shard.counters)
        return ReplayFigures(
            groups=len(buffer),
            trainable_tokens=buffer.trainable_tokens,
            next_plan_number=buffer.last_plan + 1,
            pending_groups=len(self._pending),
            rescored_groups=self.rescorer.num_sent,
            swap_wait_s=self._swap_wait_s,
            commits=ended.pop("commits", 0),
            ended=ended,
        )

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(self._receive(), name="receive"),
                tasks.create_task(self._commit_groups(), name="commit"),
                tasks.create_task(self.reports.run(), name="report"),
                tasks.create_task(self.rescorer.run(), name="rescore"),
            ]
            await until_stopped(self.stopping, *loops)

    async def on_command(self, message: Message) -> Message:
        match message:
            case CheckpointCovered(plan_number):
                await self.on_compute(self.shard.cover, plan_number)
                if not self._pending:
                    await self.on_compute(self.shard.flush)
                await self._wake()
            case TuneKnobs(knobs):
                await self._apply_knobs(knobs)
                await self._wake()
            case ApplyEpochRules(rules):
                await self._bar(rules)
                await self._wake()
            case Pause() | Resume():
                pass  # nothing to do: groups that arrive during a pause are kept, and the learner asks for no batch
            case _:
                return await super().on_command(message)
        return Done()

    # -- groups

    async def _receive(self) -> None:
        """Consumes groups and questions / produces work for the other loops / waits for both / freed by any sender.

        The inbox's credits bound how many groups wait for a commit. Questions that are unanswered when this loop ends
        are
        cancelled.
        """
        async with asyncio.TaskGroup() as questions:
            while True:
                delivery = await self.data_inbox.receive()
                message = delivery.message
                if isinstance(message, GroupScored):
                    self._take_in(delivery, message)
                elif isinstance(message, RequestBatch) and self._planner is not None:
                    questions.create_task(self._answer(delivery, message), name=f"batch {message.plan_number}")
                elif isinstance(message, BufferReported) and self._planner is not None:
                    self._planner.observe(delivery.sender, message)
                    delivery.ack()
                    await self._wake()
                elif isinstance(message, OfferGroups | ConsumePlan):
                    questions.create_task(self._answer_planner(delivery), name=type(message).__name__)
                elif isinstance(message, HandOverPartials | ReadPartials):
                    questions.create_task(self._answer_rollout(delivery, message), name=type(message).__name__)
                else:
                    delivery.refuse(f"{self.actor_id} keeps scored groups, not {type(message).__name__}")

    def _take_in(self, delivery: Delivery, message: GroupScored) -> None:
        try:
            group = Group.from_buffers(message.group, delivery.buffers)
        except ValueError as error:
            delivery.refuse(f"malformed: {error}")
            return
        self.reports.note_scored(message.group)
        self._pending.append((delivery, group))
        self._arrived.set()

    async def _commit_groups(self) -> None:
        """Consumes pending groups / produces commits and acknowledgements / waits for groups, for disk space / freed by
        reward actors, by space.

        While one commit is being synced, groups gather for the next; a commit waits `commit_interval_s` at most for
        more.
        """
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self.config.replay.commit_interval_s)
            batch = self._take_pending()
            began_s = monotonic_s()
            try:
                receipts = await self.on_compute(self.shard.put, [group for _, group in batch])
            except StorageError as error:
                self._pending[:0] = batch
                self._arrived.set()  # tried again, whether or not another group arrives
                await self._wait_for_space(error)
                continue
            except ValueError as error:
                await self._commit_one_by_one(batch, error)
                continue
            metrics.replay_commit_seconds.observe(monotonic_s() - began_s)
            self._acknowledge(batch, receipts)
            await self._wake()

    def _take_pending(self) -> list[tuple[Delivery, Group]]:
        batch: list[tuple[Delivery, Group]] = []
        num_bytes = 0
        while self._pending and num_bytes < MAX_COMMIT_BYTES:
            delivery, group = self._pending[len(batch)]
            batch.append((delivery, group))
            num_bytes += sum(int(buffer.nbytes) for buffer in delivery.buffers)
            if len(batch) == len(self._pending):
                break
        del self._pending[: len(batch)]
        if not self._pending:
            self._arrived.clear()
        return batch

    def _acknowledge(self, batch: list[tuple[Delivery, Group]], receipts: list[Receipt]) -> None:
        metrics.replay_commits.inc()
        self._trouble = ""
        for (delivery, _), receipt in zip(batch, receipts, strict=True):
            delivery.ack()
            if receipt.outcome == IntakeOutcome.DROPPED:
                metrics.replay_dropped.labels(cause="no_signal").inc()

    async def _commit_one_by_one(self, batch: list[tuple[Delivery, Group]], error: ValueError) -> None:
        """Commit groups one at a time after their joint commit failed, so that only invalid ones are refused."""
        log.warning("%s: %s", self.actor_id, error)
        for delivery, group in batch:
            try:
                receipts = await self.on_compute(self.shard.put, [group])
            except ValueError as unfit:
                delivery.refuse(f"malformed: {unfit}")
            except StorageError as full:
                self._pending.append((delivery, group))
                self._arrived.set()
                await self._wait_for_space(full)
            else:
                self._acknowledge([(delivery, group)], receipts)
        await self._wake()

    async def _wait_for_space(self, error: StorageError) -> None:
        """Wait until the disk has space. No group is acknowledged meanwhile, so senders keep theirs and run out of
        credit.
        """
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("%s: %s", self.actor_id, error)
        await self.waits.for_space(error)

    # -- batches

    async def _answer(self, delivery: Delivery, ask: RequestBatch) -> None:
        """Answer a request for a batch; while there is none, wait as long as the learner allows."""
        assert self._planner is not None
        began_s = monotonic_s()
        while True:
            seen = self._num_wakeups
            try:
                with self.tracer.span("plan"):
                    outcome = await self._planner.batch(ask)
            except StorageError as error:
                outcome = Shortfall(f"the plan cannot be logged: {error}")
            except RingAsyncError as error:
                delivery.refuse(str(error))
                return
            if not isinstance(outcome, Shortfall):
                try:
                    batch, share = (outcome, None) if ask.data_rank is None else batch_of_rank(outcome, ask.data_rank)
                except ValueError as error:
                    delivery.refuse(str(error))
                    return
                delivery.reply(BatchReady(batch.plan.plan_number, share), batch_buffers(batch))
                metrics.replay_batch_wait_seconds.observe(monotonic_s() - began_s)
                for sequence in batch.plan.sequences:
                    metrics.replay_staleness.observe(sequence.staleness)
                await self._wake()
                return
            remaining_s = began_s + ask.wait_s - monotonic_s()
            if remaining_s < SHORTEST_WAIT_S:
                delivery.reply(BatchNotReady(self._trouble or outcome.reason))
                return
            await self._wait_for_change(seen, outcome.reason, remaining_s)

    async def _answer_planner(self, delivery: Delivery) -> None:
        try:
            message, buffers = await self.on_compute(answer_planner, self.shard, delivery.message)
        except RefusedError as error:
            delivery.refuse(str(error))
            return
        delivery.reply(message, buffers)
        await self._wake()

    async def _answer_rollout(self, delivery: Delivery, message: HandOverPartials | ReadPartials) -> None:
        try:
            answer, buffers = await self.on_compute(answer_rollout, self.shard, message, delivery.buffers)
        except RefusedError as error:
            delivery.refuse(str(error))
            return
        delivery.reply(answer, buffers)

    async def _wait_for_change(self, seen: int, reason: str, remaining_s: float) -> None:
        self._num_waiting_questions += 1
        self.reports.look_again()
        try:
            with metrics.waiting(metrics.replay_waiting_seconds, "tokens"):
                waiting = self.waits.on(f"rollouts: {reason}", cause=WaitCause.TOKENS)
                async with waiting, self._changed:
                    # no `wait_for`: on Python 3.11, one that is cancelled as it times out keeps the lock for ever
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(remaining_s):
                            await self._changed.wait_for(lambda: self._num_wakeups != seen)
        finally:
            self._num_waiting_questions -= 1

    async def _bar(self, rules: dict[str, EpochRules]) -> None:
        """Apply epoch rules from the next plan on; retried while the disk is full.

        Other shards get the rules from the planner, between two plans, with the offer for the next one.
        """
        while self._planner is not None:
            began_s = monotonic_s()
            try:
                async with self._planner.between_plans():
                    await self.on_compute(self.shard.bar, rules)
                self._swap_wait_s += monotonic_s() - began_s
                return
            except StorageError as error:
                await self._wait_for_space(error)

    async def _wake(self) -> None:
        """Tell the waiting questions, the reports and the rescorer that the shard changed."""
        self._num_wakeups += 1
        self.reports.look_again()
        self.rescorer.look_again()
        async with self._changed:
            self._changed.notify_all()

    # -- the shard's thread

    def _open_shard(self) -> ReplayShard:
        path = self.context.run_dir.replay / self.actor_id
        store = ReplayStore(path, self.config.replay.map_size_bytes)
        return ReplayShard(store, buffer_rules(self.config), advantage_rules(self.config))

    async def _apply_knobs(self, knobs: dict[str, Any]) -> None:
        if not knobs:
            return
        async with self._planner.between_plans() if self._planner else contextlib.nullcontext():
            await self.on_compute(self._tune, knobs)

    def _tune(self, knobs: dict[str, Any]) -> None:
        self.shard.tune(tuned_rules(self.config, knobs))

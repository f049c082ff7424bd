"""The reports of a replay actor: the new states of trajectories, and how much the shard holds.

    shard ──unheard states──▶ TrajectoriesMoved ──▶ controller        after each commit; again, until it is acknowledged
    shard ──its totals─────▶ BufferReported ───▶ controller, planner  at most every REPORT_INTERVAL_S

Owns: when a report is sent, and which reports the controller has acknowledged. Does not own their content
(`ReplayShard`).
Invariants: the controller hears of every trajectory, if need be from the store after a restart; the present
states are reported after the changes that led to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

from ring_async.actors.base import Actor
from ring_async.core.roster import PLANNER_ID
from ring_async.core.work.ledger import in_portions
from ring_async.errors import RefusedError, StorageError
from ring_async.records.figures import BufferTotals, ScoredTotals
from ring_async.storage.replay_shard import ReplayShard
from ring_async.telemetry import metrics
from ring_async.trajectory_states import TrajectoryState, TrajectoryStatus
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.work import BufferReported, TrajectoriesMoved
from ring_async.types import GroupHeader

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.05


class Reports:
    """Sends the reports of one replay actor.

    Args:
        actor: the replay actor, through whose links reports go.
        shard: source of the reports; read on the actor's compute thread.
        is_learner_waiting: whether a question of the learner waits for groups.

    Example:
        A commit takes group `a` in: `look_again()`. `run` sends report 1, `a/0` and `a/1` buffered, then a
        `BufferReported`. The controller acknowledges report 1, and the shard forgets it. If the controller restarts
        before that, `start_over()` has report 1 sent again, and after it the state of everything held.
    """

    def __init__(self, actor: Actor, shard: ReplayShard, is_learner_waiting: Callable[[], bool]) -> None:
        self._actor = actor
        self._shard = shard
        self._is_learner_waiting = is_learner_waiting
        self._due = asyncio.Event()
        self._last_sent = 0
        """Number of the newest report of states that was sent to this controller."""
        self._is_present_due = False
        self._num_sent = 0
        """Counts reports that have no number; their message ids derive from it."""
        self._num_evictions_exported = 0
        self._scored: dict[str, ScoredTotals] = {}
        """By source: the scored trajectories that arrived, with or without a signal."""
        self._planner_hears: asyncio.Future[None] | None = None

    def look_again(self) -> None:
        """Send a report soon, because the shard, or a question that waits for it, has changed."""
        self._due.set()

    def start_over(self) -> None:
        """Report again to a controller that may have restarted: what it has not acknowledged, then what is held."""
        self._last_sent = 0
        self._is_present_due = True
        self._due.set()

    def note_scored(self, header: GroupHeader) -> None:
        """Count a scored group that arrived, whether or not it is taken in."""
        source = header.prompt.source
        arrived = ScoredTotals(len(header.trajectories), sum(one.reward or 0.0 for one in header.trajectories))
        self._scored[source] = self._scored.get(source, ScoredTotals()) + arrived

    async def run(self) -> None:
        """Consumes news / produces reports / waits for the controller's credit / freed by its answers."""
        actor = self._actor
        while True:
            await self._due.wait()
            self._due.clear()
            is_present_due, self._is_present_due = self._is_present_due, False
            reports, present = await actor.on_compute(self._unsent, self._last_sent, is_present_due)
            for number, states in reports:
                self._last_sent = number
                message_id = f"{actor.actor_id}-moved-{number}"
                heard = await actor.controller.send(TrajectoriesMoved(states), message_id=message_id)
                heard.add_done_callback(functools.partial(self._heard, number))
            for portion in in_portions(present):
                await self._tell_controller(TrajectoriesMoved(portion), "present")
            report = await actor.on_compute(self._buffer_report)
            await self._tell_controller(report, "buffer")
            await self._tell_planner(report)
            await asyncio.sleep(REPORT_INTERVAL_S)

    # -- parts

    async def _tell_controller(self, message: Message, kind: str) -> None:
        sent = await self._actor.controller.send(message, message_id=self._message_id(kind))
        sent.add_done_callback(_log_failure)

    async def _tell_planner(self, report: BufferReported) -> None:
        """Send the newest report to the planner, one at a time: a planner that was away gets only the newest."""
        if self._actor.actor_id == PLANNER_ID or PLANNER_ID not in self._actor.members:
            return
        if self._planner_hears is not None and not self._planner_hears.done():
            self._planner_hears.add_done_callback(lambda _: self._due.set())
            return
        link = self._actor.data_link(PLANNER_ID)
        self._planner_hears = await link.send(report, message_id=self._message_id("planner"))

    def _message_id(self, kind: str) -> str:
        self._num_sent += 1
        return f"{self._actor.actor_id}.{self._actor.incarnation}-{kind}-{self._num_sent}"

    def _heard(self, number: int, sent: asyncio.Future[None]) -> None:
        """Note that the controller stored report `number` durably, or refused it. Other reports are sent again after a
        restart.
        """
        if sent.cancelled():
            return
        if (error := sent.exception()) is not None:
            log.error("%s: report %d did not reach the ledger: %s", self._actor.actor_id, number, error)
            if not isinstance(error, RefusedError):
                return
        asyncio.get_running_loop().run_in_executor(self._actor.compute, self._shard.heard, (number,))

    # -- on the shard's thread

    def _unsent(self, number: int, is_present_due: bool) -> tuple[list[Any], tuple[TrajectoryState, ...]]:
        """The reports after `number`, and the totals after them: read at one moment, sent in this order."""
        return self._shard.unheard_after(number), self._shard.present_states() if is_present_due else ()

    def _buffer_report(self) -> BufferReported:
        shard = self._shard
        buffer = shard.buffer
        num_open = buffer.num_open
        metrics.replay_buffer_tokens.set(buffer.trainable_tokens)
        metrics.replay_buffer_trajectories.set(num_open)
        metrics.replay_eligible_tokens.set(buffer.eligible_tokens)
        with contextlib.suppress(StorageError):  # a disk that cannot be written is reported where groups wait for it
            metrics.replay_store_bytes.set(shard.store.used_bytes)
        num_evicted = shard.counters[TrajectoryStatus.EVICTED]
        metrics.replay_evicted.inc(num_evicted - self._num_evictions_exported)
        self._num_evictions_exported = num_evicted
        totals = BufferTotals(
            buffer_tokens=buffer.trainable_tokens,
            buffer_trajectories=num_open,
            next_plan_number=buffer.last_plan + 1,
            is_learner_waiting=self._is_learner_waiting(),
            evicted=num_evicted,
            scored=dict(self._scored),
        )
        return BufferReported(totals)


def _log_failure(sent: asyncio.Future[None]) -> None:
    if not sent.cancelled() and sent.exception() is not None:
        log.warning("the controller refused a report: %s", sent.exception())

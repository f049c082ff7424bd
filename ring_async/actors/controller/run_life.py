"""The life of a run: pause, resume, stop, failure, and the order in which actors leave.

    running ◀──pause, resume──▶ paused
       └────────┴──shut_down, fail──▶ stopping ──everybody left──▶ finished, or failed

Owns: the state of the run, the reason for its end, and its outcome on disk. Does not own who asks for the end, or what
members do when they are told to leave.
Invariants: a run ends once, with one reason; a failure while the run stops still becomes its outcome.
"""

from __future__ import annotations

import logging

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.versions import Versions
from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import RunState
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID, LEAVING_ORDER, Role
from ring_async.errors import PeerTimeoutError, RefusedError
from ring_async.records.events import EventKind
from ring_async.storage.run_dir import write_json
from ring_async.transport.messages.fleet import Pause, Resume
from ring_async.transport.messages.versions import SaveCheckpoint

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 10.0


class RunLife:
    """The state of one run.

    life.pause()                           # life.state is paused
    life.resume()
    life.shut_down("ring-async down", 20)  # life.state is stopping, life.reason "ring-async down"
    """

    def __init__(self, context: RunContext, fleet: FleetShell, dispatcher: Dispatcher, versions: Versions) -> None:
        self._context = context
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._versions = versions
        self.is_paused = False
        self.failure = ""
        """Why the run failed, or empty."""
        self._stop_reason = ""
        self._has_ended = False
        self._stop_at_s: float | None = None

    @property
    def state(self) -> RunState:
        if self._has_ended:
            return RunState.FAILED if self.failure else RunState.FINISHED
        if self._stop_reason:
            return RunState.STOPPING
        return RunState.PAUSED if self.is_paused else RunState.RUNNING

    @property
    def reason(self) -> str:
        """Why the run ends or has ended; empty while it goes on."""
        return self.failure or self._stop_reason

    @property
    def is_stopping(self) -> bool:
        """Whether the run is ending: no more work is granted, and actors that leave are not replaced."""
        return bool(self._stop_reason)

    # -- pause

    def pause(self) -> None:
        """Stop granting work and batches; work under way finishes."""
        self.is_paused = True
        self._context.run_log.event(EventKind.PAUSED, author="api")
        self._fleet.tell(Pause(), Role.ROLLOUT, Role.LEARNER)

    def resume(self) -> None:
        """Grant work and batches again."""
        self.is_paused = False
        self._context.run_log.event(EventKind.RESUMED, author="api")
        self._fleet.tell(Resume(), Role.ROLLOUT, Role.LEARNER)

    # -- the end

    def start_clock(self) -> None:
        """Start the clock of `stop.wall_s` when training begins; later calls change nothing."""
        stop = self._context.config.stop
        if self._stop_at_s is None and stop.wall_s is not None:
            self._stop_at_s = monotonic_s() + stop.wall_s

    def stop_if_time_is_up(self) -> None:
        stop = self._context.config.stop
        if self._stop_at_s is not None and monotonic_s() > self._stop_at_s:
            self.shut_down(f"stop.wall_s: {stop.wall_s:.0f} s of training", STOP_DEADLINE_S)

    def stop_if_trained(self, number: int) -> None:
        """End the run if version `number`, which a checkpoint now holds, is the last one wanted."""
        if number >= self._context.config.stop.policy_versions:
            self.shut_down("all policy versions trained", STOP_DEADLINE_S)

    def shut_down(self, reason: str, deadline_s: float) -> None:
        """End the run: write a checkpoint if a person ends it, then have every actor leave within the deadline."""
        if not self._stop_reason:
            self._stop_reason = reason
            self._context.run_log.event(EventKind.STOPPING, author=CONTROLLER_ID, reason=reason)
            self._context.spawn(self._stop(deadline_s))

    def fail(self, reason: str) -> None:
        """End the run with a failure; the first reason counts."""
        if not self.failure:
            self.failure = reason
            log.error("the run failed: %s", reason)
            self._context.run_log.event(EventKind.FAILED, author=CONTROLLER_ID, reason=reason)
        self.shut_down("failed", STOP_DEADLINE_S)

    async def _stop(self, deadline_s: float) -> None:
        end_s = monotonic_s() + deadline_s
        config, links = self._context.config, self._fleet.links
        if not self.failure and not self._is_trained:
            try:
                await links.command(LEARNER_ID, Pause(), timeout_s=deadline_s / 4)
                await links.command(LEARNER_ID, SaveCheckpoint(""), timeout_s=deadline_s / 2)
            except (PeerTimeoutError, RefusedError) as error:
                log.warning("no checkpoint before stopping: %s", error)
        is_trained = self._is_trained
        for roles in LEAVING_ORDER:
            finish_s = 0.0 if is_trained else (end_s - monotonic_s()) / 4
            if is_trained and roles == (Role.EVALUATOR,) and self._fleet.members.of(*roles):
                finish_s = config.evaluation.finish_s  # the last version is the one people want to know about
                end_s = monotonic_s() + finish_s + STOP_DEADLINE_S
            await self._fleet.dismiss(roles, finish_s=finish_s, end_s=end_s)
        self._write_outcome()
        self._has_ended = True

    def _write_outcome(self) -> None:
        killed = sorted(self._fleet.members.by_id)
        outcome = {"reason": self._stop_reason, "failure": self.failure, "killed": killed}
        self._context.run_log.event(EventKind.STOPPED, author=CONTROLLER_ID, **outcome)
        checkpoint = (self._versions.checkpoint or {}).get("path")
        where = {"policy_version": self._dispatcher.limiter.state.version_number, "checkpoint": checkpoint}
        write_json(self._context.run_dir.outcome, outcome | where)

    @property
    def _is_trained(self) -> bool:
        return self._dispatcher.limiter.state.version_number >= self._context.config.stop.policy_versions

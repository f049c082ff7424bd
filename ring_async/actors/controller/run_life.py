"""The life of a run: pause, resume, stop, failure, and the order in which actors leave.

    running ◀──pause, resume──▶ paused
       └────────┴──shut_down, fail──▶ stopping ──everybody left──▶ finished, or failed

Owns: the state of the run, the reason for its end, and its outcome on disk. Does not own who asks for the end, or what
members do when they are told to leave.
Invariants: a run ends once, with one reason; a failure while the run stops still becomes its outcome; a pause and an
end are durable before anybody hears of them, so that a controller that restarts goes on with them.
"""

from __future__ import annotations

import logging
from typing import Any

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.versions import Versions
from ring_async.clock import monotonic_s
from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.states import RunState
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID, LEAVING_ORDER, Role
from ring_async.errors import PeerTimeoutError, RefusedError, StorageError
from ring_async.storage.run_dir import write_json
from ring_async.transport.messages.fleet import Pause, Resume
from ring_async.transport.messages.versions import SaveCheckpoint

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 10.0
NOTE_TIME_S = 10.0
"""How often the time that a run has trained is stored, so that a controller's death does not prolong `stop.wall_s`."""
TRAINED = "all policy versions trained"


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
        notes = context.notes
        before: dict[str, Any] = (notes.resumed("life") if context.is_fleet_alive else None) or {}
        self.is_paused: bool = before.get("is_paused", False)
        self.failure: str = before.get("failure", "")
        """Why the run failed, or empty."""
        self._stop_reason: str = before.get("stop_reason", "")
        self._deadline_s: float = before.get("deadline_s", STOP_DEADLINE_S)
        self._trained_s: float = before.get("trained_s", 0.0)
        """Time of training under former processes of this controller, to within `NOTE_TIME_S`."""
        self._clock_began_s: float | None = None
        self._has_ended = False

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

    def open(self) -> None:
        """Begin or go on: with an end that was under way, or at the end if all versions are trained already."""
        if self._context.notes.get("life"):
            self._note()  # a run that is resumed forgets how it ended
        if self._stop_reason:
            self._context.run_log.event(EventKind.STOPPING, author=CONTROLLER_ID, reason=self.reason)
            self._context.spawn(self._stop(self._deadline_s))
        elif (checkpoint := self._versions.checkpoint) is not None:
            self.stop_if_trained(checkpoint["version"])

    # -- pause

    def pause(self) -> None:
        """Stop granting work and batches; work under way finishes."""
        self._set_paused(is_paused=True)
        self._context.run_log.event(EventKind.PAUSED, author="api")
        self._fleet.tell(Pause(), Role.ROLLOUT, Role.LEARNER)

    def resume(self) -> None:
        """Grant work and batches again."""
        self._set_paused(is_paused=False)
        self._context.run_log.event(EventKind.RESUMED, author="api")
        self._fleet.tell(Resume(), Role.ROLLOUT, Role.LEARNER)

    def _set_paused(self, *, is_paused: bool) -> None:
        before, self.is_paused = self.is_paused, is_paused
        try:
            self._note()
        except StorageError:
            self.is_paused = before
            raise

    # -- the end

    def start_clock(self) -> None:
        """Start the clock of `stop.wall_s` when training begins; later calls change nothing."""
        if self._clock_began_s is None and self._context.config.stop.wall_s is not None:
            self._clock_began_s = monotonic_s()

    def stop_if_time_is_up(self) -> None:
        """End the run if it has trained for `stop.wall_s`."""
        stop = self._context.config.stop
        if self._clock_began_s is None or stop.wall_s is None:
            return
        now_s = monotonic_s()
        trained_s = self._trained_s + now_s - self._clock_began_s
        if now_s - self._clock_began_s > NOTE_TIME_S and not self._stop_reason:
            self._trained_s, self._clock_began_s = trained_s, now_s
            self._context.notes.hold("life", self._plain())
        if trained_s > stop.wall_s:
            self.shut_down(f"stop.wall_s: {stop.wall_s:.0f} s of training", STOP_DEADLINE_S)

    def stop_if_trained(self, number: int) -> None:
        """End the run if version `number`, which a checkpoint now holds, is the last one wanted."""
        if number >= self._context.config.stop.policy_versions:
            self.shut_down(TRAINED, STOP_DEADLINE_S)

    def shut_down(self, reason: str, deadline_s: float) -> None:
        """End the run: write a checkpoint if a person ends it, then have every actor leave within the deadline."""
        if not self._stop_reason:
            self._stop_reason, self._deadline_s = reason, deadline_s
            self._note()
            self._context.run_log.event(EventKind.STOPPING, author=CONTROLLER_ID, reason=reason)
            self._context.spawn(self._stop(deadline_s))

    def fail(self, reason: str) -> None:
        """End the run with a failure; the first reason counts."""
        if not self.failure:
            self.failure = reason
            self._note()
            log.error("the run failed: %s", reason)
            self._context.run_log.event(EventKind.FAILED, author=CONTROLLER_ID, reason=reason)
        self.shut_down("failed", STOP_DEADLINE_S)

    def _note(self) -> None:
        """Durably store what a restarted controller must know. An end goes on even if it cannot be stored."""
        life = self._plain()
        if life == self._context.notes.get("life"):
            return
        try:
            self._context.notes.put("life", life)
        except StorageError as error:
            if not self._stop_reason and not self.failure:
                raise
            log.error("the end of the run is not durable: %s", error)

    def _plain(self) -> dict[str, Any]:
        return {
            "is_paused": self.is_paused,
            "stop_reason": self._stop_reason,
            "failure": self.failure,
            "deadline_s": self._deadline_s,
            "trained_s": self._trained_s,
        }

    async def _stop(self, deadline_s: float) -> None:
        await self._fleet.until_gathered()  # nobody else can be told to leave
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
        where = {"policy_version": self._version_number, "checkpoint": checkpoint}
        try:
            write_json(self._context.run_dir.outcome, outcome | where)
        except OSError as error:  # a run whose disk is full ends all the same
            log.error("%s cannot be written: %s", self._context.run_dir.outcome, error.strerror)

    @property
    def _is_trained(self) -> bool:
        return self._version_number >= self._context.config.stop.policy_versions

    @property
    def _version_number(self) -> int:
        """The newest version that is published or in a checkpoint: the learner may die between the two."""
        saved = (self._versions.checkpoint or {}).get("version", 0)
        return max(self._dispatcher.limiter.state.version_number, int(saved))

"""The deadline of batches: it shows the batch watch what there is, and ends the run when the watch says so.

Owns: what excuses a wait, and the end of the run. Does not own the rule (`core.fleet.batch_watch`).
"""

from __future__ import annotations

from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.run_life import RunLife
from ring_async.core.fleet.batch_watch import BatchWatch, Signs
from ring_async.core.roster import LEARNER_ID, Role
from ring_async.core.work.ledger import Ledger
from ring_async.records.figures import LearnerFigures


class BatchDeadline:
    """Ends a run to which no batch comes nearer. Args: `deadline_s` is `replay.batch_deadline_s`."""

    def __init__(
        self, deadline_s: float, fleet: FleetShell, dispatcher: Dispatcher, life: RunLife, ledger: Ledger
    ) -> None:
        self._watch = BatchWatch(deadline_s)
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._life = life
        self._ledger = ledger

    def trained(self) -> None:
        """Note that a batch was trained."""
        self._watch.trained(self._ledger.causes())

    def look(self, now_s: float) -> None:
        """End the run if the learner has had nothing to train for too long, though nothing keeps batches away."""
        members = self._fleet.members
        learner = members.beat_of(LEARNER_ID)
        is_excused = (
            self._life.is_paused
            or self._life.is_stopping
            or not members.of(Role.REPLAY)
            or bool(self._fleet.wanted.waits_for_place(now_s))
        )
        is_starved = (
            learner is not None and isinstance(learner.counters, LearnerFigures) and learner.counters.is_starved
        )
        ledger, buffer_tokens = self._ledger, self._dispatcher.buffer_totals().buffer_tokens
        signs = Signs.of(members.generated_tokens(), buffer_tokens, ledger.counts(), ledger.causes())
        self._watch.observe(now_s, is_starved=is_starved, is_excused=is_excused, signs=signs)
        if self._watch.is_over and learner is not None and not self._life.is_stopping:
            self._life.fail(self._watch.why(learner.waiting_for, ledger.causes()))

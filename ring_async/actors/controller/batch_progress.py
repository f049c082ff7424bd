"""The batch watch of one run: what the controller knows, brought to `core.fleet.batch_watch`.

Owns: the end of a run whose learner has had nothing to train for too long. Does not own when that is (`BatchWatch`).
"""

from __future__ import annotations

from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.run_life import RunLife
from ring_async.config.schema import Config
from ring_async.core.fleet.batch_watch import BatchWatch, Signs
from ring_async.core.roster import LEARNER_ID, Role
from ring_async.core.work.ledger import Ledger
from ring_async.records.figures import LearnerFigures


class BatchProgress:
    """Ends a run that is without a batch for longer than `replay.batch_deadline_s`.

    progress.watch(now_s)     # each tick
    progress.trained()        # a step was completed: the time starts again
    """

    def __init__(
        self, config: Config, fleet: FleetShell, dispatcher: Dispatcher, life: RunLife, ledger: Ledger
    ) -> None:
        self._watch = BatchWatch(config.replay.batch_deadline_s)
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._life = life
        self._ledger = ledger
        self._watch.trained(ledger.causes())

    def trained(self) -> None:
        """Note that a batch was trained."""
        self._watch.trained(self._ledger.causes())

    def watch(self, now_s: float) -> None:
        """End the run if the learner has had nothing to train for too long, though nothing keeps batches away."""
        members = self._fleet.members
        learner = members.beat_of(LEARNER_ID)
        if learner is None or not isinstance(learner.counters, LearnerFigures):
            return
        is_excused = (
            self._life.is_paused
            or self._life.is_stopping
            or not members.of(Role.REPLAY)
            or bool(self._fleet.wanted.waits_for_place(now_s))
        )
        buffer_tokens = self._dispatcher.buffer_totals().buffer_tokens
        causes = self._ledger.causes()
        signs = Signs.of(members.generated_tokens(), buffer_tokens, self._ledger.counts(), causes)
        self._watch.observe(now_s, is_starved=learner.counters.is_starved, is_excused=is_excused, signs=signs)
        if self._watch.is_over and not self._life.is_stopping:
            self._life.fail(self._watch.why(learner.waiting_for, causes))

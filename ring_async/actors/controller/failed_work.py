"""Failed work: what the run does about groups, prompts, sources and batches that failed.

Owns: the events that tell people, and that a failing source is set aside by itself. Does not own leases and journal
(`Dispatcher`), when a source counts as failing (`core.work.source_health`), nor verifiers.
"""

from __future__ import annotations

from collections.abc import Iterable

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.run_life import RunLife
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import CONTROLLER_ID
from ring_async.core.work.leases import Returned

FAILED_BATCHES = "failed_batches"


class FailedWork:
    """Records what failed.

    failed.record(dispatcher.expire())                                   # an event for each group that is given up
    failed.drop(actor_id, "sums-00000012", "5,000 prompt tokens …")      # the prompt is dropped, not tried again
    """

    def __init__(self, run: RunContext, dispatcher: Dispatcher, life: RunLife) -> None:
        self._event = run.run_log.event
        self._notes = run.notes
        self._max_batch_tries = run.config.learner.max_batch_tries
        self._batches: dict[str, tuple[int, str]] = run.notes.resumed(FAILED_BATCHES) or {}
        """How often each batch failed in the learner, and why at last."""
        self._dispatcher = dispatcher
        self._life = life
        dispatcher.prompts.on_failing = lambda source, reason: self.set_aside([source], reason)

    def record(self, given_up: Iterable[Returned]) -> None:
        """Record groups that were tried too often."""
        for back in given_up:
            said = {"group_id": back.reservation.group_id, "cause": back.cause, "detail": back.detail}
            self._event(EventKind.GROUP_FAILED, author=back.owner, **said)

    def drop(self, rollout: str, group_id: str, reason: str) -> None:
        """Drop a group whose prompt no engine can take, and set its source aside if its prompts are of that kind."""
        reservation = self._dispatcher.drop(group_id, owner=rollout)
        if reservation is None:
            return
        prompt = reservation.prompt
        said = {"group_id": group_id, "prompt_id": prompt.prompt_id, "source": prompt.source, "reason": reason}
        self._event(EventKind.PROMPT_REFUSED, author=rollout, **said)
        if (found := self._dispatcher.prompts.served.failed(prompt.source, reason)) is not None:
            self.set_aside([prompt.source], found)

    def batch(self, plan_number: int, cause: str, *, author: str) -> None:
        """Count a batch that failed in the learner, durably; after `learner.max_batch_tries` it is skipped."""
        tries = self._batches.get(str(plan_number), (0, ""))[0] + 1
        batches = self._batches | {str(plan_number): (tries, cause)}
        self._notes.put(FAILED_BATCHES, batches)
        self._batches = batches
        said = {"plan_number": plan_number, "tries": tries, "cause": cause}
        self._event(EventKind.BATCH_FAILED, author=author, **said)
        if str(plan_number) in self.skipped_batches:
            self._event(
                EventKind.BATCH_SKIPPED, author=CONTROLLER_ID, plan_number=plan_number, tries=tries, cause=cause
            )

    @property
    def skipped_batches(self) -> dict[str, str]:
        """Plan numbers that the learner skips, and why."""
        most = self._max_batch_tries
        return {number: cause for number, (tries, cause) in self._batches.items() if most and tries >= most}

    def set_aside(self, sources: list[str], reason: str, is_for_good: bool = True) -> None:
        """Stop reserving groups of these sources, record it, and train the others. If there are none, the run ends,
        unless the sources may soon come back.
        """
        mixture = self._dispatcher.prompts.mixture
        if not set(sources) <= mixture.paused:
            self._event(EventKind.DOMAIN_PAUSED, author=CONTROLLER_ID, sources=sources, reason=reason)
        if not mixture.pause(sources) and is_for_good:
            self._life.fail(f"every source is paused, the last ({', '.join(sources)}) because {reason}")

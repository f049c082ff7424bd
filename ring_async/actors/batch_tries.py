"""Batches that fail in the learner: each is tried a few times, then skipped by name.

    learner ──train──▶ error ──BatchFailed──▶ controller: counts, durably; the learner restarts from its checkpoint
    controller ──Registered.skipped_batches──▶ learner: that batch makes a version with unchanged weights

Owns: what the learner does about an error of its engine. Does not own the count (`controller.failed_work`), nor
divergence, which ends the run.
Invariant: a batch is skipped in every life of the learner or in none, for the controller's word is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from ring_async.actors.base import REQUEST_TIMEOUT_S, Actor
from ring_async.errors import ActorFailedError, DivergedError, PeerTimeoutError, RefusedError
from ring_async.training.base import StepReport
from ring_async.transport.messages.batches import BatchFailed

log = logging.getLogger(__name__)

MAX_CAUSE_CHARS = 500


class BatchTries:
    """Trains batches, and skips those that the controller has given up. Args: `actor` is the learner."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._skipped: dict[int, str] = {}

    def adopt(self, skipped: Mapping[str, str]) -> None:
        """Take over what the controller says: plan numbers to skip, each with the cause."""
        self._skipped = {int(plan_number): cause for plan_number, cause in skipped.items()}

    async def train(self, plan_number: int, train: Callable[[], Awaitable[StepReport]]) -> StepReport:
        """Train a batch, or skip it: then its report says why, and counts no token.

        Raises:
            DivergedError: the loss, the gradient or the weights are not finite.
            ActorFailedError: the engine failed, and may be left between two states: the learner must restart.
        """
        if (cause := self._skipped.get(plan_number)) is not None:
            log.error("%s: batch %d is skipped: %s", self._actor.actor_id, plan_number, cause)
            return StepReport(loss_tokens=0, num_optimizer_steps=0, seconds=0.0, metrics={"skipped": cause})
        try:
            return await train()
        except (DivergedError, ActorFailedError):  # a rank that is lost is no fault of the batch
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"[:MAX_CAUSE_CHARS]
            try:
                await self._actor.controller.request(BatchFailed(plan_number, cause), timeout_s=REQUEST_TIMEOUT_S)
            except (PeerTimeoutError, RefusedError) as silence:
                log.warning("%s: this try does not count: %s", self._actor.actor_id, silence)
            raise ActorFailedError(f"{self._actor.actor_id}: batch {plan_number} failed: {cause}") from error

"""The newest published version of the policy and the newest checkpoint, passed on to those who need them.

Owns: the announcement that new members start from, the checkpoint that a learner restarts from, and the learner's
incarnation.
Does not own the weights, the checkpoint's files, or what the number of versions means for the run.
Invariant: a checkpoint is noted durably before replay hears which plans it covers.
"""

from __future__ import annotations

from typing import Any

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.core.roster import LEARNER_ID, Role
from ring_async.errors import RefusedError, RunError, TransportError
from ring_async.transport.messages.fleet import Holding, Member
from ring_async.transport.messages.versions import (
    CheckpointCovered,
    CheckpointSaved,
    SaveCheckpoint,
    UseWeights,
    WeightsAnnouncement,
)

SAVE_TIMEOUT_S = 300.0


class Versions:
    """Announces versions to rollouts and evaluator, and checkpoints to replay.

    versions.publish(announcement)            # rollouts and the evaluator follow it
    versions.checkpoint_saved(saved)          # versions.checkpoint == {"path": …, "plan_number": 8, "version": 8}
    """

    def __init__(self, context: RunContext, fleet: FleetShell) -> None:
        self._notes = context.notes
        self._fleet = fleet
        self._num_kept = context.config.checkpoint.keep
        self.weights: WeightsAnnouncement | None = None
        self.checkpoint: dict[str, Any] | None = self._notes.resumed("checkpoint")
        noted = self._notes.get("learner_incarnation")
        self._learner_incarnation = -1 if noted is None else int(noted)

    @property
    def learner_incarnation(self) -> int:
        """The incarnation under which a learner that registers now publishes its versions."""
        return max(0, self._learner_incarnation)

    def number_learner(self, member: Member, holding: Holding) -> None:
        """Durably begin a new incarnation for a learner that is about to join. One that has an incarnation keeps it: it
        lives on, and only the controller restarted.

        Raises:
            StorageError: nothing was changed; the learner must not join yet.
        """
        if member.role == Role.LEARNER and holding.learner_incarnation is None:
            self._notes.put("learner_incarnation", self._learner_incarnation + 1)
            self._learner_incarnation += 1

    def joined(self, member: Member) -> None:
        """Handle a new member: replay may have missed the newest checkpoint."""
        if member.role == Role.REPLAY and self.checkpoint:
            self._fleet.links.tell(member.actor_id, CheckpointCovered(self.checkpoint["covered"]))

    def publish(self, announcement: WeightsAnnouncement) -> bool:
        """Announce a published version to rollouts and evaluator; False if it, or a newer one, was announced before."""
        if self.weights is not None and announcement.policy_version <= self.weights.policy_version:
            return False
        self.weights = announcement
        self._fleet.tell(UseWeights(announcement), Role.ROLLOUT, Role.EVALUATOR)
        return True

    def checkpoint_saved(self, saved: CheckpointSaved) -> None:
        """Note a durable checkpoint, and tell replay what it may delete: where two or more are kept, what the one
        before covers, so that a learner can go back to that one if the newest is damaged.
        """
        number, before = saved.policy_version.number, self.checkpoint
        covered = saved.plan_number
        if self._num_kept > 1:
            covered = _covered_behind(before, saved.plan_number)
        checkpoint = {"path": saved.path, "plan_number": saved.plan_number, "version": number, "covered": covered}
        self._notes.put("checkpoint", checkpoint)
        self.checkpoint = checkpoint
        self._fleet.tell(CheckpointCovered(covered), Role.REPLAY)

    async def save_checkpoint(self) -> str:
        """Have the learner write a checkpoint between two steps; returns its path.

        Raises:
            RunError: the learner did not write one in time, or was lost meanwhile.
            RefusedError: the learner cannot write one now.
        """
        try:
            saved = await self._fleet.links.command(LEARNER_ID, SaveCheckpoint(""), timeout_s=SAVE_TIMEOUT_S)
        except RefusedError:
            raise
        except TransportError as error:  # no answer in time, or a learner that was lost meanwhile
            raise RunError(f"no checkpoint: {error}") from error
        assert isinstance(saved, CheckpointSaved)
        return saved.path


def _covered_behind(before: dict[str, Any] | None, plan_number: int) -> int:
    """The last plan that a checkpoint before the newest one, of `plan_number`, covers.

    `before` is not that checkpoint if a learner has gone back behind it: then it was damaged.
    """
    if before is None:
        return 0
    found: int = before["plan_number"] if before["plan_number"] < plan_number else before["covered"]
    return found

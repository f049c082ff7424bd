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
from ring_async.errors import PeerTimeoutError, RunError
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
        self.weights: WeightsAnnouncement | None = None
        self.checkpoint: dict[str, Any] | None = self._notes.resumed("checkpoint")
        noted = self._notes.get("learner_incarnation")
        self._learner_incarnation = -1 if noted is None else int(noted)

    @property
    def learner_incarnation(self) -> int:
        """The incarnation under which a learner that registers now publishes its versions."""
        return max(0, self._learner_incarnation)

    def joined(self, member: Member, holding: Holding) -> None:
        """Handle a new member: a learner starts a new incarnation; replay may have missed the newest checkpoint.

        A learner that has an incarnation keeps it: it lives on, and only the controller restarted.
        """
        if member.role == Role.LEARNER and holding.learner_incarnation is None:
            self._notes.put("learner_incarnation", self._learner_incarnation + 1)
            self._learner_incarnation += 1
        if member.role == Role.REPLAY and self.checkpoint:
            self._fleet.links.tell(member.actor_id, CheckpointCovered(self.checkpoint["plan_number"]))

    def publish(self, announcement: WeightsAnnouncement) -> bool:
        """Announce a published version to rollouts and evaluator; False if it, or a newer one, was announced before."""
        if self.weights is not None and announcement.policy_version <= self.weights.policy_version:
            return False
        self.weights = announcement
        self._fleet.tell(UseWeights(announcement), Role.ROLLOUT, Role.EVALUATOR)
        return True

    def checkpoint_saved(self, saved: CheckpointSaved) -> None:
        """Note a durable checkpoint, and tell replay that it may delete what the checkpoint covers."""
        number = saved.policy_version.number
        checkpoint = {"path": saved.path, "plan_number": saved.plan_number, "version": number}
        self._notes.put("checkpoint", checkpoint)
        self.checkpoint = checkpoint
        self._fleet.tell(CheckpointCovered(saved.plan_number), Role.REPLAY)

    async def save_checkpoint(self) -> str:
        """Have the learner write a checkpoint between two steps; returns its path.

        Raises:
            RunError: the learner did not write one in time.
            RefusedError: the learner cannot write one now.
        """
        try:
            saved = await self._fleet.links.command(LEARNER_ID, SaveCheckpoint(""), timeout_s=SAVE_TIMEOUT_S)
        except PeerTimeoutError as error:
            raise RunError(f"no checkpoint: {error}") from error
        assert isinstance(saved, CheckpointSaved)
        return saved.path

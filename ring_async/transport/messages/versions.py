"""Messages about versions of the policy: published, in use, checkpointed, evaluated."""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.transport.messages.base import Message
from ring_async.types import (
    PolicyVersion,
)


class WeightsAnnouncement(msgspec.Struct, frozen=True):
    """A published version and how to fetch it; `manifest` is the weight channel's own."""

    policy_version: PolicyVersion
    channel: str
    manifest: dict[str, Any]


class WeightsPublished(Message, frozen=True):
    announcement: WeightsAnnouncement


class WeightsAdopted(Message, frozen=True):
    """A rollout's engine samples from this version now."""

    policy_version: PolicyVersion
    stage_s: float
    pause_s: float


class CheckpointSaved(Message, frozen=True):
    """A durable learner checkpoint covers all plans up to and including `plan_number`."""

    path: str
    plan_number: int
    policy_version: PolicyVersion


class CheckpointPassedOver(Message, frozen=True):
    """A learner could not restore a checkpoint, and went back to the older one in folder `restored`."""

    why: str
    restored: str


class VersionEvaluated(Message, frozen=True):
    """The evaluator scored one version on held-out problems: a line of `evaluations.jsonl`."""

    policy_version: PolicyVersion
    figures: dict[str, Any]


class UseWeights(Message, frozen=True):
    announcement: WeightsAnnouncement


class SaveCheckpoint(Message, frozen=True):
    path: str


class CheckpointCovered(Message, frozen=True):
    """Replay may delete the payloads that only plans up to and including `plan_number` need."""

    plan_number: int

"""Messages about batches: requests, planning over the shards of replay, training."""

from __future__ import annotations

from typing import Any

from ring_async.core.rank_batches import RankShare
from ring_async.core.replay.offers import OfferMark
from ring_async.core.replay.plan_log import PlanPart
from ring_async.core.staleness import Lineage
from ring_async.transport.messages.base import Message
from ring_async.types import (
    EpochRules,
    PolicyVersion,
)


class RequestBatch(Message, frozen=True):
    """The learner asks for batch `plan_number`; asking again for a planned number returns the same plan."""

    plan_number: int
    policy_version: PolicyVersion
    wait_s: float
    """How long replay may hold the question before it answers `BatchNotReady`."""
    data_rank: int | None = None
    """The leader of this data-parallel rank asks for its own rows; None: the whole batch is wanted."""


class BatchReady(Message, frozen=True):
    """Buffers: as `batch_wire` lays out the batch, the plan first."""

    plan_number: int
    share: RankShare | None = None
    """The rank's share, if a `data_rank` was asked for: the plan in the buffers is then that rank's."""


class BatchNotReady(Message, frozen=True):
    reason: str


class OfferGroups(Message, frozen=True):
    """The planner asks what batch `plan_number` may take, at the learner's version and lineage.

    `epoch_rules` are in force from this batch on. `since`: the changes that the planner knows.
    """

    plan_number: int
    policy_version: PolicyVersion
    lineage: Lineage
    epoch_rules: dict[str, EpochRules] = {}
    since: OfferMark = OfferMark()


class GroupsOffered(Message, frozen=True):
    """`last_plan`: the newest plan followed; if it is not the one before, nothing is offered. Buffers: an `Offer`."""

    last_plan: int
    trainable_tokens: int


class ConsumePlan(Message, frozen=True):
    """The planner sends a shard its part of a logged plan. The part of a plan that is not next changes nothing."""

    part: PlanPart
    has_tokens: bool
    """Whether the tokens are wanted too."""


class PlanConsumed(Message, frozen=True):
    """`last_plan`: the newest plan followed, durably. Buffers: the tokens, if wanted and the plan is followed."""

    last_plan: int


class BatchFailed(Message, frozen=True):
    """The learner's engine failed on this batch; the learner restarts."""

    plan_number: int
    cause: str


class StepCompleted(Message, frozen=True):
    """One optimizer batch was trained: a line of `metrics.jsonl`."""

    plan_number: int
    policy_version: PolicyVersion
    metrics: dict[str, Any]

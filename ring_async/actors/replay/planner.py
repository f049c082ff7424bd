"""The planner: it makes one batch plan over all replay shards, its own included.

    learner ──RequestBatch n──▶ planner ──OfferGroups n──▶ every shard that lives: evicts, answers with what changed
                                planner: chooses Φ tokens among all offers and logs plan n: from now on it is fixed
                                planner ──ConsumePlan n──▶ shards it takes from: make progress durable, return tokens
    learner ◀──BatchReady n──── planner: rows filled

Owns: the conversation between planner and shards, on both sides. Does not own the choice
(`core.replay.batch_planning`), the log or what became of groups (`ReplayShard`).
Invariants: the log in the planner's store is the only truth about plans; a shard follows it in order, without a gap,
and never ends a group between an offer and the plan made from it. Rules change between two plans only.
So any shard may die at any instant: a plan that
is logged and not yet followed is followed later, from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import zlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec

from ring_async.actors.base import Actor
from ring_async.batches import BatchPlan, PackedBatch
from ring_async.columns import Buffer
from ring_async.core.ids import split_id
from ring_async.core.replay.group_bundle import unbundle
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.offers import Mirror, Offer
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.roster import PLANNER_ID, Role, id_of
from ring_async.errors import PeerTimeoutError, RefusedError, StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.transport.base import Answer
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.batches import (
    BatchNotReady,
    ConsumePlan,
    GroupsOffered,
    OfferGroups,
    PlanConsumed,
    RequestBatch,
)
from ring_async.transport.messages.work import BufferReported
from ring_async.types import Group

log = logging.getLogger(__name__)
T = TypeVar("T")

SHARD_TIMEOUT_S = 5.0
"""A batch is planned without a shard that does not answer for this long; a logged plan that needs it asks again."""

MAX_PARTS = 64
"""Plans read from the log at once for a shard that was away."""

_offer_decoder = msgspec.msgpack.Decoder(Offer)


def shard_of(group_id: str, num_shards: int) -> str:
    """The actor id of the shard that keeps a group; every process computes the same one."""
    return id_of(Role.REPLAY, zlib.crc32(group_id.encode()) % num_shards)


class BatchPlanner:
    """Plans batches over all shards. Args: `actor` is the replay actor that plans, `shard` its own shard."""

    def __init__(self, actor: Actor, shard: ReplayShard) -> None:
        self._actor = actor
        self._shard = shard
        self._num_shards = actor.config.replay.num
        self._others = [id_of(Role.REPLAY, index) for index in range(1, self._num_shards)]
        self._reported: dict[str, int] = {}
        """Trainable tokens of each other shard, by its last report."""
        self._followed = dict.fromkeys(self._others, 0)
        """The newest plan that each other shard has followed, as far as it has said: it may need those after it."""
        self._mirrors: dict[str, Mirror] = {}
        """Of each other shard that was asked, its open groups as far as it has told."""
        self._note_followed({})
        self._turn = asyncio.Lock()
        self._rank_turn = asyncio.Lock()
        self._packed: tuple[RequestBatch, PackedBatch] | None = None
        """The last batch that a rank asked for, until every rank has its rows of it."""
        self._ranks_served: set[int] = set()

    def observe(self, shard: str, report: BufferReported) -> None:
        """Record another shard's report of its content."""
        self._reported[shard] = report.totals.buffer_tokens

    async def batch(self, ask: RequestBatch) -> PackedBatch | Shortfall:
        """The packed batch asked for, or the reason why there is none yet. Raises what `ReplayShard.plan` raises.

        Ranks ask for one batch one by one; it is packed once.
        """
        if ask.data_rank is None:
            return await self._batch(ask)
        of_all = msgspec.structs.replace(ask, data_rank=None, wait_s=0.0)
        async with self._rank_turn:
            if self._packed is None or self._packed[0] != of_all:
                self._packed = None
                found = await self._batch(ask)
                if isinstance(found, Shortfall):
                    return found
                self._packed = (of_all, found)
                self._ranks_served.clear()
            batch = self._packed[1]
            self._ranks_served.add(ask.data_rank)
            if len(self._ranks_served) == batch.plan.num_ranks:
                self._packed = None
            return batch

    async def _batch(self, ask: RequestBatch) -> PackedBatch | Shortfall:
        if not self._others:
            return await self._actor.on_compute(self._shard.batch, ask.plan_number, ask.policy_version)
        async with self._turn:
            await self._actor.on_compute(self._shard.follow, ask.policy_version)
            others: list[HeldGroups] = []
            if ask.plan_number == self._shard.buffer.last_plan + 1:
                if (shortfall := self._shortfall()) is not None:
                    return shortfall
                others = await self._offers(ask)
            planning = functools.partial(self._shard.plan, ask.plan_number, ask.policy_version, others=others)
            plan = await self._actor.on_compute(planning)
            return plan if isinstance(plan, Shortfall) else await self._collect(plan)

    @contextlib.asynccontextmanager
    async def between_plans(self) -> AsyncIterator[None]:
        """No batch is planned within this block: rules that change here hold for an offer and its plan alike."""
        async with self._turn:
            yield

    # -- parts

    def _living(self) -> list[str]:
        return [shard for shard in self._others if shard in self._actor.members]

    def _shortfall(self) -> Shortfall | None:
        """Why there can be no batch yet, judged by the shards' last reports; None: the shards must be asked."""
        living, buffer = self._living(), self._shard.buffer
        if not all(shard in self._reported for shard in living):
            return None
        num_tokens = buffer.trainable_tokens + sum(self._reported[shard] for shard in living)
        if num_tokens >= buffer.rules.token_budget:
            return None
        away = [shard for shard in self._others if shard not in living]
        where = f"{1 + len(living)} shards" + (f"; {', '.join(away)} is away" if away else "")
        return Shortfall(f"{num_tokens:,} of {buffer.rules.token_budget:,} tokens in {where}")

    def _note_followed(self, last_plans: dict[str, int]) -> None:
        self._followed |= last_plans
        self._shard.history.followed = min(self._followed.values(), default=math.inf)

    async def _offers(self, ask: RequestBatch) -> list[HeldGroups]:
        offers = await asyncio.gather(*(self._offer(shard, ask) for shard in self._living()))
        return [groups for groups in offers if groups is not None]

    async def _offer(self, shard: str, ask: RequestBatch) -> HeldGroups | None:
        """Hear of a shard's groups what has changed; None if the shard is away, and this batch takes none of them."""
        buffer = self._shard.buffer
        if (mirror := self._mirrors.get(shard)) is None:
            mirror = self._mirrors[shard] = Mirror(buffer.rules, buffer.lineage, buffer.epoch_rules)
        await self._actor.on_compute(mirror.follow, buffer.rules, buffer.lineage, buffer.epoch_rules)
        while True:
            question = OfferGroups(
                ask.plan_number, ask.policy_version, buffer.lineage, buffer.epoch_rules, since=mirror.mark
            )
            if (answer := await self._ask(shard, question)) is None:
                return None
            offered = answer.message
            assert isinstance(offered, GroupsOffered)
            self._reported[shard] = offered.trainable_tokens
            self._note_followed({shard: offered.last_plan})
            if offered.last_plan == ask.plan_number - 1:
                offer = await self._actor.on_compute(_offer_decoder.decode, answer.buffers[0])
                await self._actor.on_compute(mirror.take_in, offer)
                if not offer.has_more:
                    return mirror.groups
            elif not await self._catch_up(shard, offered.last_plan):
                return None

    async def _catch_up(self, shard: str, last_plan: int) -> bool:
        """Send a shard the plans that it missed. Returns whether it followed any."""
        parts = await self._actor.on_compute(self._shard.parts_after, last_plan, self._keeps(shard), MAX_PARTS)
        for part in parts:
            answer = await self._ask(shard, ConsumePlan(part, has_tokens=False))
            if answer is None or answer.message != PlanConsumed(part.plan_number):
                return False
        return bool(parts)

    async def _collect(self, plan: BatchPlan) -> PackedBatch | Shortfall:
        """Collect the groups of a logged plan from all shards that keep some."""
        group_ids = {split_id(sequence.trajectory_id)[0] for sequence in plan.sequences}
        needed = sorted({shard_of(group_id, self._num_shards) for group_id in group_ids} - {PLANNER_ID})
        found = await asyncio.gather(*(self._take(shard, plan.plan_number) for shard in needed))
        away = [shard for shard, groups in zip(needed, found, strict=True) if groups is None]
        if away:
            return Shortfall(f"batch {plan.plan_number} is planned with groups of {', '.join(away)}, which is away")
        groups = [group for part in found if part is not None for group in part]
        return await self._actor.on_compute(self._shard.pack, plan, groups)

    async def _take(self, shard: str, plan_number: int) -> list[Group] | None:
        """Have a shard follow a logged plan, and return its groups in it; None while the shard is away."""
        [part] = await self._actor.on_compute(self._shard.parts_after, plan_number - 1, self._keeps(shard), 1)
        while (answer := await self._ask(shard, ConsumePlan(part, has_tokens=True))) is not None:
            consumed = answer.message
            assert isinstance(consumed, PlanConsumed)
            self._note_followed({shard: consumed.last_plan})
            if consumed.last_plan >= plan_number:
                return await self._actor.on_compute(unbundle, answer.buffers)
            if not await self._catch_up(shard, consumed.last_plan):
                break
        return None

    async def _ask(self, shard: str, question: Message) -> Answer | None:
        """Ask a shard; None if it is away or cannot write now."""
        if shard not in self._actor.members:
            return None
        try:
            async with self._actor.waits.on(f"{shard} to answer {type(question).__name__}", 2 * SHARD_TIMEOUT_S):
                answer = await self._actor.data_link(shard).request(question, timeout_s=SHARD_TIMEOUT_S)
        except PeerTimeoutError as error:
            log.warning("%s", error)
            return None
        if isinstance(answer.message, BatchNotReady):
            log.warning("%s: %s", shard, answer.message.reason)
            return None
        return answer

    def _keeps(self, shard: str) -> Callable[[str], bool]:
        return lambda group_id: shard_of(group_id, self._num_shards) == shard


def answer_planner(shard: ReplayShard, question: Message) -> tuple[Message, list[Buffer]]:
    """Answer the planner for one shard, after the answer is durable there. Runs on the shard's thread.

    Raises:
        RefusedError: the planner's log and this shard do not fit together, or a payload is gone.
    """
    buffer = shard.buffer
    try:
        match question:
            case OfferGroups(plan_number, policy_version, lineage, epoch_rules, since):
                offer = shard.offer(plan_number, policy_version, lineage, epoch_rules, since)
                encoded: list[Buffer] = [msgspec.msgpack.encode(offer)] if offer is not None else []
                return GroupsOffered(buffer.last_plan, buffer.trainable_tokens), encoded
            case ConsumePlan(part, has_tokens):
                shard.consume(part)
                is_due = has_tokens and buffer.last_plan >= part.plan_number
                return PlanConsumed(buffer.last_plan), shard.tokens(part) if is_due else []
    except StorageError as error:
        return BatchNotReady(str(error)), []
    raise RefusedError(f"a shard does not answer {type(question).__name__}")

"""Rules change between two plans: the real planner over two real shards, with the change asked for at the worst moment.

A verifier was swapped with rescore (epoch 1); shard 1 has offered its groups under that rule when the swap is rolled
back (epoch 2). Planned under the new rule, the batch could take a group that the other shard meanwhile ended under the
old one, and that shard could never follow the plan.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ring_async.actors.replay.planner import BatchPlanner, answer_planner, shard_of
from ring_async.batches import PackedBatch
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.token_budget import Shortfall
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_config, make_group
from ring_async.transport.base import Answer
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.batches import OfferGroups, RequestBatch
from ring_async.types import EpochRules, PolicyVersion, VerifierStamp

RULES = BufferRules(token_budget=64, token_capacity=64, num_shards=2)
RESCORED = {"exact": EpochRules(floor=1)}
ROLLED_BACK = {"exact": EpochRules(floor=0, barred=(1,))}
VERSION = PolicyVersion(0, 0)


class TwoShards:
    """What a `BatchPlanner` needs of its actor: the planner's shard is here, the other one behind `request`."""

    def __init__(self, runs: Path) -> None:
        self.config = make_config(replay__num=2, budget__token_budget=64)
        self.members = {"replay-0": None, "replay-1": None}
        self.own, self.other = (
            ReplayShard(ReplayStore(runs / f"replay-{i}", 64 << 20), RULES, AdvantageRules()) for i in range(2)
        )
        self.planner = BatchPlanner(self, self.own)  # type: ignore[arg-type]
        self.on_offered = asyncio.Event()
        self.may_answer = asyncio.Event()
        self._compute = ThreadPoolExecutor(1)
        self.waits = SimpleNamespace(on=self._no_wait)

    @contextlib.asynccontextmanager
    async def _no_wait(self, whom: str, deadline_s: float | None = None) -> AsyncIterator[None]:
        yield

    def data_link(self, actor_id: str) -> TwoShards:
        return self

    async def on_compute(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *arguments)

    async def request(self, question: Message, buffers: Sequence[Any] = (), *, timeout_s: float) -> Answer:
        message, answered = answer_planner(self.other, question)
        if isinstance(question, OfferGroups):
            self.on_offered.set()
            await self.may_answer.wait()
        return Answer(message, tuple(memoryview(bytes(buffer)) for buffer in answered))

    def close(self) -> None:
        self._compute.shutdown()
        self.own.close()
        self.other.close()


def fill(shards: TwoShards) -> str:
    """Groups of epoch 0 in both shards; returns the id of one in the other shard."""
    stamp = VerifierStamp("exact", "v0", 0)
    ids = [f"sums-{number:08d}" for number in range(40)]
    mine = [group_id for group_id in ids if shard_of(group_id, 2) == "replay-0"][:4]
    theirs = [group_id for group_id in ids if shard_of(group_id, 2) == "replay-1"][:6]
    shards.own.put([make_group(group_id, lengths=4, verifier=stamp) for group_id in mine])
    shards.other.put([make_group(group_id, lengths=8, verifier=stamp) for group_id in theirs])
    return theirs[0]


def test_a_rollback_between_an_offer_and_its_plan_waits_for_the_plan(tmp_path: Path):
    async def both() -> None:
        shards = TwoShards(tmp_path)
        victim = fill(shards)
        shards.own.bar(RESCORED)

        async def roll_back() -> None:
            async with shards.planner.between_plans():
                await shards.on_compute(shards.own.bar, ROLLED_BACK)

        ask = RequestBatch(1, VERSION, 1.0)
        planning = asyncio.create_task(shards.planner.batch(ask))
        await shards.on_offered.wait()
        rolling_back = asyncio.create_task(roll_back())
        await asyncio.sleep(0)
        judged_again = VerifierStamp("exact", "v1", 1)  # no signal under epoch 1: the other shard ends the group
        shards.other.put([make_group(victim, rewards=(1.0, 1.0), lengths=8, verifier=judged_again)])
        shards.may_answer.set()
        first = await planning
        assert isinstance(first, Shortfall), "under the rescore no group may be trained on yet"
        await rolling_back
        second = await shards.planner.batch(ask)
        assert isinstance(second, PackedBatch)
        assert sum(s.interval.end - s.interval.start for s in second.plan.sequences) == 64
        assert victim not in {s.trajectory_id.rpartition("/")[0] for s in second.plan.sequences}
        shards.close()

    asyncio.run(both())

"""A rollout that dies or leaves: others go on with what it had generated."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from one_process_run import EVEN_TOTAL, run
from ring_async.clock import monotonic_s
from ring_async.engines.base import GenerationRequest
from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config, stable_seed
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_engine import ScriptedEngine, ScriptedResponse
from ring_async.types import Generation

HANDOVER_S = 2.0
TOKEN_S = 0.1


@dataclass
class Sampled:
    """What a response had when its rollout was killed, and what the next rollout began it with."""

    at_the_kill: Generation
    next_prefixes: list[Generation | None] = field(default_factory=list)


def even_lengths(request: GenerationRequest) -> ScriptedResponse:
    """50 to 190 tokens."""
    rng = np.random.default_rng(stable_seed("long", request.seed))
    return ScriptedResponse(rng.integers(1, 100, rng.integers(50, 191), dtype=np.int32))


class WatchedEngine(ScriptedEngine):
    killed: dict[str, Sampled]

    async def generate(self, request: GenerationRequest) -> Generation:
        if (before := self.killed.get(request.request_id)) is not None:
            before.next_prefixes.append(request.prefix)
        return await super().generate(request)

    async def have(self) -> dict[str, Generation]:
        """What every response under way has, from its first token on."""
        pieces = await self.sampled(dict.fromkeys(self._requests, 0))
        return {piece.header.trajectory_id: piece.generation for piece in pieces}


class WatchedFleet(OneProcessFleet):
    killed: dict[str, Sampled]

    def _new_engine(self, actor_id: str) -> ScriptedEngine:
        engine = WatchedEngine(actor_id, script=even_lengths, token_s=TOKEN_S, capacity=16)
        engine.killed = self.killed
        self.engines[actor_id] = engine
        return engine


def make_fleet(runs: Path, **settings: object) -> WatchedFleet:
    shared = {
        "budget__token_budget": 2048,
        "rollout__num": 2,
        "rollout__group_size": 4,
        "rollout__max_tokens": 200,
        "rollout__max_running_requests": 16,
        "rollout__handover_s": HANDOVER_S,
        "rollout__lease_s": 6.0,
        "learner__token_capacity": 256,
        "replay__max_staleness": 16,
        "replay__map_size_bytes": 64 << 20,
        "placement__max_restarts": 1000,
        "verifiers": {"exact": {"use": EVEN_TOTAL}},
        "checkpoint__every_versions": 5,
    }
    fleet = WatchedFleet(make_config(**(shared | settings)), runs, train_s=0.5)
    fleet.killed = {}
    return fleet


def kill_often(fleet: WatchedFleet, num_kills: int) -> None:
    """Run the fleet to its end, and kill a rollout every now and then."""
    rng = random.Random(7)

    async def deed(_: OneProcessFleet) -> None:
        for _number in range(num_kills):
            await asyncio.sleep(rng.uniform(10.0, 40.0))
            while not (living := [name for name in fleet.engines if name in fleet._tasks]):
                await asyncio.sleep(1.0)
            victim = rng.choice(living)
            engine = fleet.engines[victim]
            assert isinstance(engine, WatchedEngine)
            for trajectory_id, generation in (await engine.have()).items():
                fleet.killed[trajectory_id] = Sampled(generation)
            fleet.kill(victim)

    assert not run(fleet, deed)


@pytest.mark.parametrize(("num_shards", "num_kills", "num_versions"), [(1, 50, 200), (2, 8, 30)])
def test_a_killed_rollout_costs_at_most_the_time_since_its_last_handover(
    tmp_path: Path, num_shards: int, num_kills: int, num_versions: int
) -> None:
    fleet = make_fleet(tmp_path, replay__num=num_shards, stop__policy_versions=num_versions)
    kill_often(fleet, num_kills)
    num_lost, num_resumed = [], 0
    for trajectory_id, sampled in fleet.killed.items():
        if not sampled.next_prefixes:
            continue  # the run ended first
        prefix, before = sampled.next_prefixes[0], sampled.at_the_kill
        size = 0 if prefix is None else prefix.response_ids.size
        num_lost.append(before.response_ids.size - size)
        if prefix is not None:
            num_resumed += 1
            assert prefix.response_ids.tolist() == before.response_ids[:size].tolist(), trajectory_id
            assert prefix.behavior_logprobs.tolist() == before.behavior_logprobs[:size].tolist()
    assert num_resumed > 5 * num_kills
    assert max(num_lost) <= (HANDOVER_S + 1.0) / TOKEN_S
    found = audit(fleet.run_dir.path)
    assert not found.violations
    assert found.counts["failed"] == 0, "no group is given up for the deaths of its rollouts"


def test_without_handovers_all_is_sampled_again(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, rollout__handover_s=0.0, stop__policy_versions=15)
    kill_often(fleet, 3)
    begun_again = [sampled for sampled in fleet.killed.values() if sampled.next_prefixes]
    assert len(begun_again) > 3
    assert all(sampled.next_prefixes[0] is None for sampled in begun_again)


def test_a_rollout_that_leaves_hands_over_what_it_could_not_finish(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, rollout__handover_s=1000.0, stop__policy_versions=20)
    left: dict[str, Generation] = {}

    async def deed(_: OneProcessFleet) -> None:
        await asyncio.sleep(30.0)
        leaving = fleet.actors["rollout-1"]
        engine = fleet.engines["rollout-1"]
        assert isinstance(engine, WatchedEngine)
        leaving.stop_deadline_s = monotonic_s() + 3.0
        leaving.stopping.set()
        await asyncio.sleep(1.5)
        left.update(await engine.have())
        fleet.killed.update({name: Sampled(generation) for name, generation in left.items()})

    assert not run(fleet, deed)
    begun_again = [sampled for sampled in fleet.killed.values() if sampled.next_prefixes]
    assert len(begun_again) >= 4
    for sampled in begun_again:
        prefix = sampled.next_prefixes[0]
        assert prefix is not None
        assert prefix.response_ids.size >= sampled.at_the_kill.response_ids.size

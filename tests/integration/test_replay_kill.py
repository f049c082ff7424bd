"""Signal 9 for replay, 50 times, under load, at random points: nothing acknowledged is lost, nothing trained twice."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from replay_process import TOKEN_BUDGET, ReplayRig
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.store_history import folded_until, num_groups_forgotten
from ring_async.storage.store_reader import INTEGER

NUM_KILLS = int(os.environ.get("RING_REPLAY_KILLS", "50"))
SEED = 20_250_614


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_fifty_times_replay_loses_and_doubles_nothing(tmp_path: Path) -> None:
    asyncio.run(kill_again_and_again(tmp_path))


async def kill_again_and_again(folder: Path) -> None:
    rig = ReplayRig(folder, seed=SEED)
    print(f"seed {SEED}, {NUM_KILLS} kills")
    try:
        async with rig.running():
            for number in range(NUM_KILLS):
                rig.start("replay-0")
                if number % 5 == 4:  # in the middle of its start, of reading back what it holds
                    await asyncio.sleep(float(rig.rng.uniform(0.2, 1.0)))
                else:
                    await rig.up("replay-0")
                    await asyncio.sleep(float(rig.rng.uniform(0.02, 1.0)))
                rig.kill("replay-0")
                if number % 12 == 7:
                    rig.crash_learner()
                prove(rig)
            rig.start("replay-0")
            await rig.up("replay-0")
            await until_version(rig, rig.version.number + 5)
        prove(rig)
        report = audit(rig.run_dir.path)
        assert report.figures["batches planned"] >= NUM_KILLS
        assert report.figures["batches replayed"] >= 1
        print(report.to_text())
    finally:
        shutil.rmtree(rig.socket_dir, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_one_by_one_and_together_the_shards_lose_and_double_nothing(tmp_path: Path) -> None:
    asyncio.run(kill_shards(tmp_path))


async def kill_shards(folder: Path) -> None:
    """One shard dies, the others go on for a while, then all die: some are behind the log when they come back."""
    rig = ReplayRig(folder, num_shards=3, seed=SEED)
    num_rounds = -(-NUM_KILLS // 6)
    print(f"seed {SEED}, {num_rounds} rounds of 3 kills")
    num_behind = 0
    try:
        async with rig.running():
            for number in range(num_rounds):
                for shard in rig.shards:
                    rig.start(shard)
                await asyncio.gather(*(rig.up(shard) for shard in rig.shards))
                await asyncio.sleep(float(rig.rng.uniform(0.02, 1.5)))
                victim = rig.shards[number % len(rig.shards)]
                rig.kill(victim)
                await asyncio.sleep(float(rig.rng.uniform(0.0, 1.5)))
                for shard in set(rig.shards) - {victim}:
                    rig.kill(shard)
                if number % 4 == 2:
                    rig.crash_learner()
                prove(rig)
                num_behind += len(set(last_plans(rig))) > 1
            for shard in rig.shards:
                rig.start(shard)
            await asyncio.gather(*(rig.up(shard) for shard in rig.shards))
            await until_version(rig, rig.version.number + 5)
        prove(rig)
        report = audit(rig.run_dir.path)
        assert report.figures["batches planned"] >= num_rounds
        assert num_behind
        print(f"{num_behind} times a shard was behind the log", report.to_text(), sep="\n")
    finally:
        shutil.rmtree(rig.socket_dir, ignore_errors=True)


def last_plans(rig: ReplayRig) -> list[int]:
    """The newest plan that each shard has followed."""
    found = []
    for shard in rig.shards:
        store = ReplayStore(rig.run_dir.replay / shard, 256 << 20, is_readonly=True)
        with store.read() as reader:
            found.append(reader.meta("last_plan", INTEGER, 0))
        store.close()
    return found


async def until_version(rig: ReplayRig, number: int) -> None:
    async with asyncio.timeout(60.0):
        while rig.version.number < number:
            await asyncio.sleep(0.01)


def prove(rig: ReplayRig) -> None:
    """Replay is dead: from disk, everything must be there and add up. Of what a store has folded, the audit proves the
    summary, and the number of groups must fit.
    """
    assert not rig.refusals
    report = audit(rig.run_dir.path)
    assert report.is_clean, report.to_text()
    known: set[str] = set()
    num_forgotten = folded = 0
    for path in rig.run_dir.replay.glob("*/data.mdb"):
        store = ReplayStore(path.parent, 256 << 20, is_readonly=True)
        with store.read() as reader:
            known |= {*reader.group_ids(), *(group_id for group_id, _ in reader.all_ended())}
            num_forgotten += num_groups_forgotten(reader)
            folded = max(folded, folded_until(reader))
            for entry in reader.plans_after(0):
                intervals = [(s.trajectory_id, s.interval.start, s.interval.end) for s in entry.plan.sequences]
                rig.promised[entry.plan.plan_number] = tuple(intervals)
        store.close()
    gone = sorted(rig.acknowledged - known)
    assert len(gone) <= num_forgotten, f"acknowledged, but gone: {gone}"
    trained = {number: intervals for number, intervals in rig.trained.items() if number in rig.promised}
    assert set(rig.trained) - set(trained) <= set(range(1, folded + 1)), "trained, but not in the log"
    assert trained.items() <= rig.promised.items(), "the learner trained what the log does not promise"
    last = max(rig.promised, default=0)
    assert set(rig.promised) - set(rig.trained) <= {last}, "a logged batch was passed over"
    tokens = Counter((t, k) for intervals in trained.values() for t, start, end in intervals for k in range(start, end))
    assert set(tokens.values()) <= {1}, "a token was trained twice"
    assert tokens.total() == TOKEN_BUDGET * len(trained)

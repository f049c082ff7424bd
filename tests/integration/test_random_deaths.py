"""Any actor dies at any moment, the controller too, several at once: under the virtual clock, by seed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from one_process_run import EVEN_TOTAL, lines, run
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID
from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet

VICTIMS = (CONTROLLER_ID, LEARNER_ID, "replay-0", "replay-1", "reward-0", "reward-1", "rollout-0", "rollout-1")
NUM_VERSIONS = 10
NUM_DEATHS = 12


@pytest.mark.parametrize("seed", range(4))
def test_whoever_dies_whenever_the_run_ends_with_nothing_lost_or_doubled(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    killed: list[str] = []

    async def kill(fleet: OneProcessFleet) -> None:
        for _ in range(NUM_DEATHS):
            await asyncio.sleep(rng.expovariate(1 / 4.0))
            for victim in rng.sample(VICTIMS, rng.choice((1, 1, 2, 3))):
                if fleet.is_up(victim):
                    killed.append(victim)
                    fleet.kill(victim)

    config = make_config(
        mode=rng.choice(("async", "sync")), stop__policy_versions=NUM_VERSIONS, rollout__num=2, reward__num=2,
        replay__num=2, rollout__group_size=4, rollout__max_running_requests=16, budget__token_budget=256,
        checkpoint__every_versions=rng.choice((1, 3, 100)), verifiers={"exact": {"use": EVEN_TOTAL}},
        replay__map_size_bytes=16 << 20, placement__max_restarts=100,
    )  # fmt: skip
    fleet = OneProcessFleet(config, tmp_path, token_s=rng.choice((0.02, 0.3)), train_s=rng.choice((0.1, 2.0)))
    failure = run(fleet, kill, limit_s=3600.0)
    report = audit(fleet.run_dir.path)
    print(f"seed {seed}: {dict(Counter(killed))}\n{report.to_text()}")
    assert failure == ""
    assert json.loads(fleet.run_dir.outcome.read_text())["policy_version"] == NUM_VERSIONS
    assert report.is_clean
    versions = [(step["incarnation"], step["policy_version"]) for step in lines(fleet.run_dir.metrics)]
    assert len(versions) == len(set(versions))

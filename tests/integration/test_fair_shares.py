"""A fleet of many rollouts with little to do: what a batch makes room for goes to all of them."""

import asyncio
from collections import Counter
from pathlib import Path

from one_process_run import events, make_small_fleet, records, run, until_version
from ring_async.core.work.ledger_records import GroupReserved
from ring_async.testing.one_process import OneProcessFleet

NUM_ROLLOUTS = 8


def test_no_rollout_takes_all_the_work_and_all_engines_have_some(tmp_path: Path):
    """Each engine has room for 16 groups, and there are about 13 for all eight of them."""
    fleet = make_small_fleet(
        tmp_path, token_s=0.5, train_s=6.0, stop__policy_versions=8, rollout__num=NUM_ROLLOUTS,
        rollout__max_running_requests=64, rollout__max_tokens=60, budget__token_budget=512, replay__max_staleness=2,
        learner__token_capacity=128,
    )  # fmt: skip
    running: list[list[int]] = []

    async def watch(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        while not events(fleet, "stopping"):
            await asyncio.sleep(0.25)
            running.append([engine.load().num_running for engine in fleet.engines.values()])

    assert run(fleet, watch) == ""
    granted = Counter(one.owner for one in records(fleet) if isinstance(one, GroupReserved))
    assert len(granted) == NUM_ROLLOUTS
    assert max(granted.values()) <= 2 * min(granted.values())
    num_idle = [sum(not number for number in at_once) for at_once in running]
    assert sum(num_idle) / len(num_idle) < 0.1 * NUM_ROLLOUTS
    assert max(max(at_once) for at_once in running) <= sum(granted.values()) // 4, "no engine has it all"

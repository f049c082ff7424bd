"""More and fewer actors while training goes on: in one process under the virtual clock, and as real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from changing_fleet import make_fleet
from live_fleet import cli, fleet
from one_process_run import events, run, until_version
from ring_async.errors import ConfigError
from ring_async.storage.audit import audit
from ring_async.testing.one_process import OneProcessFleet


def test_the_fleet_grows_and_shrinks_without_losing_anything(tmp_path: Path):
    seen: list[set[str]] = []

    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 3)
        changes.scale("rollout", 4)
        changes.scale("reward", 3)
        while len(fleet.actors) < 9:
            await asyncio.sleep(0.1)
        await until_version(fleet, 12)
        seen.append({name for name, engine in fleet.engines.items() if engine.load().generated_tokens})
        changes.scale("rollout", 1)
        changes.scale("reward", 1)
        while len(events(fleet, "actor_left")) < 5:
            await asyncio.sleep(0.1)
        await until_version(fleet, 20)
        with pytest.raises(ConfigError, match="at least one must stay"):
            changes.scale("rollout", 0)
        with pytest.raises(ConfigError, match="rollout and reward can"):
            changes.scale("learner", 2)

    fleet = make_fleet(tmp_path)
    assert run(fleet, change) == ""
    assert seen == [{"rollout-0", "rollout-1", "rollout-2", "rollout-3"}]
    left = {event["actor"] for event in events(fleet, "actor_left")}
    assert left >= {"rollout-1", "rollout-2", "rollout-3", "reward-1", "reward-2"}
    assert not events(fleet, "actor_lost")
    assert not events(fleet, "group_failed")
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


@pytest.mark.slow
def test_real_rollouts_join_a_run_at_work_and_leave_it(tmp_path: Path):
    with fleet(tmp_path, "scaled", "stop.policy_versions=9999", "placement.num_cpus=4") as live:
        live.wait_version(3)
        where = ("--runs", str(tmp_path), "--run", "scaled")
        grown = cli("scale", "rollout", "3", *where)
        assert grown.returncode == 0, grown.stderr

        def generating() -> set[str]:
            actors = live.status()["actors"]
            return {one["actor_id"] for one in actors if one["counters"].get("generated_tokens", 0) > 0}

        live.wait_until(lambda: {"rollout-1", "rollout-2"} <= generating(), "tokens of the new rollouts")
        assert cli("scale", "rollout", "1", *where).returncode == 0
        live.wait_until(lambda: len(live.events("actor_left")) == 2, "both gone")
        live.wait_version(live.status()["policy_version"] + 3)
        assert [one["actor_id"] for one in live.status()["actors"] if one["role"] == "rollout"] == ["rollout-0"]
        assert cli("down", *where).returncode == 0
        assert live.wait_end() == 0, live.output()
        assert not live.events("actor_lost")
        assert not live.events("group_failed")
    report = audit(live.run_dir.path)
    assert report.is_clean, report.to_text()

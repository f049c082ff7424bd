"""A fleet whose learner is two processes: one is killed in mid-step, then one is stopped, and the run goes on."""

from __future__ import annotations

import ast
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from live_fleet import LiveFleet, cli, fleet
from ring_async.training.checkpoint import CheckpointStore

RANKS = ("learner.parallel.shard=2", "checkpoint.every_versions=2", "stop.policy_versions=14")


def groups(run: LiveFleet) -> list[dict[int, int]]:
    """The process of each rank, group after group."""
    log = (run.run_dir.logs / "learner-0.log").read_text()
    return [ast.literal_eval(found) for found in re.findall(r"learner-0: ranks (\{.*\})", log)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and whose end nobody has asked for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def newest_checkpoint(run: LiveFleet) -> int:
    checkpoint = CheckpointStore(run.run_dir.checkpoints).newest()
    return checkpoint.policy_version.number if checkpoint else 0


def lose_a_rank(run: LiveFleet, number: signal.Signals) -> dict[int, int]:
    """Send rank 1 a signal once a checkpoint is there that is newer than the last group; returns the group's pids."""
    pids = groups(run)[-1]
    begun = run.steps()[-1]["policy_version"]
    run.wait_until(lambda: newest_checkpoint(run) > begun, f"a checkpoint after version {begun}", timeout_s=240)
    os.kill(pids[1], number)
    num_groups = len(groups(run))
    run.wait_until(lambda: len(groups(run)) > num_groups, "a new group of ranks", timeout_s=240)
    return pids


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_and_a_stopped_rank_end_the_learner_which_goes_on_from_its_checkpoint(tmp_path: Path):
    with fleet(tmp_path, "ranks", *RANKS) as run:
        run.wait_version(1, timeout_s=240)
        assert [actor["actor_id"] for actor in run.status()["actors"] if actor["role"] == "learner"] == ["learner-0"]
        first = lose_a_rank(run, signal.SIGKILL)
        second = lose_a_rank(run, signal.SIGSTOP)
        assert run.wait_end(300) == 0, run.output()
        log = (run.run_dir.logs / "learner-0.log").read_text()
        # A rank that is gone is noticed by the watcher or by rank 0, whichever looks first.
        before, *parts = log.split("learner-0: ranks")
        assert len(parts) == 3, before
        assert "rank 1 is gone" in parts[0]
        assert 0 < parts[1].index("restored version") < parts[1].index("rank 1 has been stopped")
        assert "restored version" in parts[2]
        left = [pid for pids in (first, second, groups(run)[-1]) for pid in pids.values() if is_alive(pid)]
        assert left == []
        steps = run.steps()
        assert steps[-1]["policy_version"] == 14
        assert all(step["loss_tokens"] == step["token_budget"] == 1024 for step in steps)
    audit = cli("audit", str(run.run_dir.path))
    assert audit.returncode == 0, audit.stdout

"""A whole fleet whose learner is Megatron-core on two processes that split every matrix, from rollouts to rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from live_fleet import cli, fleet
from ring_async.training.checkpoint import CheckpointStore
from ring_async.training.hf.tensor_files import TensorFiles

SETTINGS = ("learner.engine=megatron", "learner.parallel.tensor=2", "checkpoint.every_versions=3")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fleet_trains_publishes_and_saves_with_megatron(tmp_path: Path):
    with fleet(tmp_path, "megatron", *SETTINGS, "stop.policy_versions=3") as run:
        assert run.wait_end(500) == 0, run.output()
        steps = run.steps()
    assert [step["policy_version"] for step in steps] == [1, 2, 3]
    assert all(step["loss_tokens"] == step["token_budget"] == 1024 for step in steps)
    # The engine that samples has the weights that the learner has: a first token's ratio is near 1.
    assert steps[0]["behavior_ratio_masked"] < 0.02
    checkpoint = CheckpointStore(run.run_dir.checkpoints).newest()
    assert checkpoint is not None
    assert checkpoint.policy_version.number == 3
    with TensorFiles(checkpoint.folder, "model") as files:
        assert "lm_head.weight" not in files.names
    audit = cli("audit", str(run.run_dir.path))
    assert audit.returncode == 0, audit.stdout

"""A run that was ended and resumed trains the same batches to the same losses, bit for bit, as one that was not.

Both run in one process under the virtual clock, with the real model, optimizer and checkpoints, in `mode: sync`, and
are paused at the same version until nothing is in flight; one then goes on, the other is ended and brought up again
from disk. Without the pause a resumed run is as exact in what it trains, but groups in flight at its end begin anew and
so arrive in another order.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from one_process_run import SALTED, lines, run, until_version
from ring_async.models import resolve_model_path
from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_engine import seeded_script
from ring_async.training.hf.engine import HfTrainEngine

NUM_VERSIONS = 10
STOP_AT = 4
DRAIN_S = 30.0
EXACT = ("loss_tokens", "surrogate", "entropy", "grad_norm", "batch_reward_mean", "policy_version")
SOURCES = {
    "sums": {"task": "chain_sum", "verifier": "exact"},
    "letters": {"task": "chain_sum", "verifier": "exact", "options": {"num_prompts": 7}},
}


class TrainingFleet(OneProcessFleet):
    """Scripted responses, real training."""

    def _new_train_engine(self) -> Any:
        engine = HfTrainEngine(self.config, resolve_model_path(self.config.model.path))
        self.train_engines.append(engine)
        return engine


WINDOWS = {
    "sums": {"by": "last_digit", "low": 2, "high": 6},
    "letters": {"by": "observed", "low": 0.1, "high": 0.9},
}


def make_fleet(
    runs: Path, difficulty: dict[str, Any], *, num_versions: int = NUM_VERSIONS, is_resumed: bool = False
) -> TrainingFleet:
    config = make_config(
        mode="sync",
        seed=5,
        stop__policy_versions=num_versions,
        budget__token_budget=192,
        model={"path": "builtin:tiny"},
        learner__token_capacity=64,
        learner__learning_rate=1e-3,
        correction__rule="none",
        rollout__group_size=4,
        rollout__max_tokens=24,
        rollout__max_running_requests=16,
        sources=SOURCES,
        difficulty=difficulty,
        mixture={"sums": 2.0, "letters": 1.0},
        verifiers={"exact": {"use": SALTED}},
        replay__map_size_bytes=32 << 20,
        checkpoint__every_versions=3,
        checkpoint__keep=3,
    )
    return TrainingFleet(config, runs, script=seeded_script(mean_tokens=12.0), is_resumed=is_resumed)


def figures(fleet: OneProcessFleet) -> dict[int, dict[str, Any]]:
    steps = lines(fleet.run_dir.metrics)
    return {step["policy_version"]: {key: step[key] for key in EXACT if key in step} for step in steps}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("difficulty", [{}, WINDOWS], ids=["all prompts", "difficulty windows"])
def test_a_resumed_run_gives_the_same_losses_bit_for_bit(tmp_path: Path, difficulty: dict[str, Any]):
    torch.set_num_threads(1)

    async def pause(fleet: OneProcessFleet) -> None:
        await until_version(fleet, STOP_AT)
        await fleet.controller.pause()
        await asyncio.sleep(DRAIN_S)

    async def go_on(fleet: OneProcessFleet) -> None:
        await pause(fleet)
        await fleet.controller.resume()

    async def stop(fleet: OneProcessFleet) -> None:
        await pause(fleet)
        fleet.controller.shut_down("test", deadline_s=60.0)

    whole = make_fleet(tmp_path / "whole", difficulty)
    assert run(whole, go_on) == ""

    first = make_fleet(tmp_path / "parts", difficulty)
    assert run(first, stop) == ""
    reached = json.loads(first.run_dir.outcome.read_text())["policy_version"]
    assert STOP_AT <= reached < NUM_VERSIONS
    second = make_fleet(tmp_path / "parts", difficulty, is_resumed=True)
    assert run(second) == ""
    expected, found = figures(whole), figures(second)
    assert sorted(found) == list(range(1, NUM_VERSIONS + 1))
    assert {"surrogate", "grad_norm"} <= set(expected[NUM_VERSIONS])
    for number in expected:
        assert found[number] == expected[number], f"version {number}, resumed at {reached}"
    for (name, one), (_, other) in zip(
        whole.train_engines[-1].snapshot().tensors(), second.train_engines[-1].snapshot().tensors(), strict=True
    ):
        assert torch.equal(one, other), name
    assert audit(second.run_dir.path).is_clean

"""A verifier whose verdict takes as long as two optimizer steps, and a learner that need not wait: in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from one_process_run import EVEN_TOTAL, lines, run
from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet

STEP_S = 1.0
VERDICT_S = 2.0
NUM_FIRST = 8
"""Steps not counted: until the first verdicts are in, any learner waits."""


def utilisation(runs: Path, delay_s: float, num_steps: int = 32, **overrides: Any) -> float:
    """The share of its time that the learner trains, once the fleet is under way."""
    config = make_config(
        stop__policy_versions=num_steps,
        budget__token_budget=256,
        rollout__group_size=4,
        rollout__max_running_requests=128,
        replay__map_size_bytes=16 << 20,
        verifiers={"exact": {"use": EVEN_TOTAL, "options": {"delay_s": delay_s}}},
        **overrides,
    )
    fleet = OneProcessFleet(config, runs, train_s=STEP_S)
    assert run(fleet) == ""
    assert audit(fleet.run_dir.path).is_clean
    steps = lines(fleet.run_dir.metrics)
    assert max(step["staleness_max"] for step in steps) <= config.max_staleness
    waits_s = [step["wait_batch_s"] for step in steps[NUM_FIRST:]]
    return STEP_S * len(waits_s) / (STEP_S * len(waits_s) + sum(waits_s))


def test_the_learner_does_not_wait_for_a_slow_verifier(tmp_path: Path):
    free = utilisation(tmp_path / "free", 0.0, reward__num=4)
    slow = utilisation(tmp_path / "slow", VERDICT_S, reward__num=4)
    assert free > 0.95, "generation alone keeps the learner busy"
    assert slow >= 0.95 * free


def test_it_would_wait_if_few_groups_were_judged_at_once(tmp_path: Path):
    """The control: what the measure says where a slow verifier does hold the learner up."""
    assert utilisation(tmp_path, VERDICT_S, num_steps=NUM_FIRST + 4, reward__num=1, reward__credits=4) < 0.5

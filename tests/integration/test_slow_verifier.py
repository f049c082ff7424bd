"""A verifier whose verdict takes as long as two optimizer steps, and a learner that need not wait: in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import run_virtual

STEP_S = 1.0
VERDICT_S = 2.0
NUM_FIRST = 8
"""Steps not counted: until the first verdicts are in, any learner waits."""


class EvenTotal(ScriptedVerifier):
    """Reward 1 where the response's ids add up to an even number, `delay_s` after the question."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(lambda prompt, response: sum(map(int, response.text.split())) % 2 == 0, delay_s=delay_s)


def utilisation(runs: Path, delay_s: float, num_steps: int = 32, **overrides: Any) -> float:
    """The share of its time that the learner trains, once the fleet is under way."""
    config = make_config(
        stop__policy_versions=num_steps,
        budget__token_budget=256,
        rollout__group_size=4,
        rollout__max_running_requests=128,
        replay__map_size_bytes=16 << 20,
        verifiers={"exact": {"use": f"{__file__}:EvenTotal", "options": {"delay_s": delay_s}}},
        **overrides,
    )
    fleet = OneProcessFleet(config, runs, train_s=STEP_S)
    assert run_virtual(fleet.run()) == ""
    assert audit(fleet.run_dir.path).is_clean
    steps = [json.loads(line) for line in fleet.run_dir.metrics.read_text().splitlines()]
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
    assert utilisation(tmp_path, VERDICT_S, num_steps=NUM_FIRST + 4, reward__num=1, transport__credits=4) < 0.5

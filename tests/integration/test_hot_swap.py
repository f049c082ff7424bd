"""A verifier changed under a real fleet, as a person does it: separate processes, the embedded engine, the CLI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from live_fleet import LiveFleet, cli, fleet
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore

pytestmark = pytest.mark.slow

LENIENT = "examples/lenient_verifier.py:Lenient"


def change(live: LiveFleet, *words: str) -> dict[str, Any]:
    """One command that changes the run, and what it answers."""
    done = cli(*words, "--runs", str(live.runs), "--run", live.run_dir.path.name, "--json", timeout_s=120.0)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    """A run that begins with a lenient verifier; strict by a swap with shadow, settings, mixture, and back again."""
    runs = tmp_path_factory.mktemp("runs")
    overrides = (
        "stop.policy_versions=100000",
        f"verifiers.logic.use={LENIENT}",
        "reward.num=2",
        "placement.num_cpus=4",
    )
    with fleet(runs, "swapped", *overrides) as live:
        live.wait_version(3)
        live.swap = change(live, "swap", "verifier", "logic=reasoning_gym", "--shadow", "64", "--rescore", "--yes")
        live.swapped_at = live.status()["policy_version"]
        live.kill("reward-1")
        change(live, "set", "learner.learning_rate=5e-5", "rollout.temperature=0.9")
        change(live, "mixture", "chain_sum=1", "--difficulty", "chain_sum=num_terms:3:3")
        live.wait_version(live.swapped_at + 8)
        live.refused = cli(
            "swap",
            "verifier",
            "logic=examples/lenient_verifier.py:Nobody",
            "--runs",
            str(runs),
            "--run",
            "swapped",
            timeout_s=120.0,
        )
        live.rollback = change(live, "rollback", "verifier", "logic")
        live.rolled_back_at = live.status()["policy_version"]
        live.wait_version(live.rolled_back_at + 6)
        assert cli("down", "--runs", str(runs), "--run", "swapped").returncode == 0
        live.exit_code = live.wait_end()
        yield live


def test_the_swap_compared_both_and_took_effect(changed: LiveFleet):
    swap = changed.swap
    assert swap["state"] == "committed"
    assert swap["golden_cases"] > 0
    shadow = swap["shadow"]
    assert shadow["trajectories"] >= 64
    assert shadow["reward_before"] > shadow["reward_after"], "lenient gives more"
    assert 0 < shadow["agreement"] < 1
    rewards = {step["verifier_epoch"]: step for step in changed.steps()}
    assert set(rewards) == {0, 1, 2}


def test_batches_after_a_rescore_and_a_rollback_hold_no_other_epoch(changed: LiveFleet):
    assert changed.exit_code == 0, changed.output()
    report = audit(changed.run_dir.path)
    assert report.is_clean, report.to_text()
    store = ReplayStore(changed.run_dir.replay / "replay-0", 8 << 30, is_readonly=True)
    with store.read() as reader:
        entries = list(reader.plans_after(0))
    store.close()
    epochs = [{epoch for _, epoch in entry.scored_by} for entry in entries]
    assert all(len(found) == 1 for found in epochs[: changed.rolled_back_at])
    assert epochs[0] == {0}
    assert epochs[-1] == {2}
    ordered = [max(found) for found in epochs]
    assert ordered == sorted(ordered)


def test_everything_that_changed_is_on_record(changed: LiveFleet):
    (swapped,) = changed.events("verifier_swapped")
    lenient = swapped["before"]["use"]
    assert lenient.startswith(str(changed.run_dir.verifiers)), "a copy of the file in the run's folder"
    assert lenient.endswith("/lenient_verifier.py:Lenient")
    assert swapped["after"]["use"] == "reasoning_gym"
    (back,) = changed.events("verifier_rolled_back")
    assert back["after"]["use"] == lenient
    (knobs,) = changed.events("knobs_changed")
    assert knobs["before"] == {"learner.learning_rate": 1.5e-4, "rollout.temperature": 1.0}
    assert knobs["after"] == {"learner.learning_rate": 5e-5, "rollout.temperature": 0.9}
    (mixture,) = changed.events("mixture_changed")
    assert mixture["after"] == {"chain_sum": 1.0}
    assert set(changed.steps()[-1]["reward_by_source"]) == {"chain_sum"}
    (difficulty,) = changed.events("difficulty_changed")
    assert difficulty["after"] == {"chain_sum": {"by": "num_terms", "low": 3.0, "high": 3.0}}


def test_a_verifier_that_cannot_be_built_changes_nothing_and_says_why(changed: LiveFleet):
    assert changed.refused.returncode == 1
    assert "nothing changed" in changed.refused.stderr
    assert "has no class 'Nobody'" in changed.refused.stderr
    assert "Traceback" not in changed.refused.stderr

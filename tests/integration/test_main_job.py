"""The main job, for real: processes placed by Ray, ZMQ between them, a durable buffer, exact batches, kills, resume."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_fleet import LiveFleet, cli, fleet
from ring_async.storage.audit import audit
from ring_async.telemetry.trace_parts import busy_overlap

pytestmark = pytest.mark.slow

NUM_VERSIONS = 32
TOKEN_BUDGET = 1024
REQUIRED_KEYS = {
    "policy_version", "stage", "wall_s", "token_budget", "loss_tokens", "effective_sample_size", "reward_mean",
    "reward_by_source", "entropy", "grad_norm", "staleness_mean", "staleness_max", "behavior_ratio_masked", "evicted",
    "step_s", "wait_batch_s", "publish_s", "tokens_per_s", "generated_tokens_per_s", "buffer_tokens", "verifier_epoch",
    "mixture_epoch",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    """A whole run, during which a rollout and a reward actor are killed with signal 9."""
    runs = tmp_path_factory.mktemp("runs")
    with fleet(runs, "main", f"stop.policy_versions={NUM_VERSIONS}", "rollout.num=2", "placement.num_cpus=4") as live:
        live.wait_version(4)
        live.scraped = scrape(live)
        live.killed = {}
        for actor_id, at_version in (("rollout-0", 6), ("reward-0", 12)):
            live.wait_version(at_version)
            live.killed[actor_id] = live.kill(actor_id)
            live.wait_until(
                lambda actor=actor_id: live.pid_of(actor) not in (None, live.killed[actor]), f"a new {actor_id}"
            )
        live.exit_code = live.wait_end()
        yield live


def scrape(live: LiveFleet) -> dict[str, str]:
    """Every actor's /metrics, as Prometheus would find them."""
    texts = {}
    for target in live.client.get("/v1/discovery"):
        with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics", timeout=5) as answer:
            texts[target["labels"]["actor"]] = answer.read().decode()
    return texts


def test_the_run_ends_clean_though_actors_were_killed(finished: LiveFleet):
    assert finished.exit_code == 0, finished.output()
    outcome = json.loads(finished.run_dir.outcome.read_text())
    assert outcome["failure"] == ""
    assert outcome["policy_version"] == NUM_VERSIONS
    lost = Counter(event["actor"] for event in finished.events("actor_lost"))
    assert lost == {"rollout-0": 1, "reward-0": 1}


def test_every_step_has_exactly_phi_loss_tokens_and_bounded_staleness(finished: LiveFleet):
    steps = finished.steps()
    assert [step["policy_version"] for step in steps] == list(range(1, NUM_VERSIONS + 1))
    assert {step["loss_tokens"] for step in steps} == {TOKEN_BUDGET}
    assert {step["token_budget"] for step in steps} == {TOKEN_BUDGET}
    assert max(step["staleness_max"] for step in steps) <= 4
    assert max(step["staleness_max"] for step in steps) >= 1, "an asynchronous run trains on older tokens too"


def test_every_line_holds_what_scripts_rely_on(finished: LiveFleet):
    for step in finished.steps():
        assert set(step) >= REQUIRED_KEYS
    sources = set().union(*(step["reward_by_source"] for step in finished.steps()))
    assert sources == {"chain_sum", "leg_counting"}


def test_nothing_acknowledged_is_lost(finished: LiveFleet):
    report = audit(finished.run_dir.path)
    assert report.is_clean, report.to_text()
    printed = cli("audit", str(finished.run_dir.path), "--json")
    assert printed.returncode == 0, printed.stdout + printed.stderr


def test_rollouts_generate_while_the_learner_trains(finished: LiveFleet):
    assert busy_overlap(finished.run_dir.trace_parts, "generate", "train") >= 0.8


def test_every_actor_serves_metrics(finished: LiveFleet):
    assert set(finished.scraped) == {"controller-0", "rollout-0", "rollout-1", "reward-0", "replay-0", "learner-0"}
    assert "ring_learner_loss_tokens_total" in finished.scraped["learner-0"]
    assert "ring_rollout_groups_total" in finished.scraped["rollout-0"]


def test_checkpoint_is_a_model_directory(finished: LiveFleet):
    outcome = json.loads(finished.run_dir.outcome.read_text())
    folder = Path(outcome["checkpoint"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.rglob("*")}


def test_report_draws_the_curves(finished: LiveFleet):
    done = cli("report", str(finished.run_dir.path))
    assert done.returncode == 0, done.stderr
    pictures = list(finished.run_dir.path.glob("*.png"))
    assert len(pictures) == 1
    assert pictures[0].stat().st_size > 20_000


def test_down_and_resume(tmp_path: Path):
    """`down` writes a checkpoint; `up --resume` goes on from it, exact to the token, and the account stays whole."""
    with fleet(tmp_path, "again", "stop.policy_versions=400") as live:
        live.wait_version(5)
        shown = cli("status", "--runs", str(tmp_path), "--json")
        assert json.loads(shown.stdout)["run"] == "again"
        done = cli("down", "--runs", str(tmp_path), "--run", "again")
        assert done.returncode == 0, done.stderr
        assert live.wait_end(60) == 0
        reached = json.loads(live.run_dir.outcome.read_text())["policy_version"]
        assert 5 <= reached < 400
    refused = cli("up", "configs/local.yaml", "run.name=again", f"run.dir={tmp_path}")
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    last = reached + 6
    with fleet(tmp_path, "again", f"stop.policy_versions={last}", resume=True) as live:
        assert live.wait_end() == 0, live.output()
    steps = live.steps()
    assert steps[-1]["policy_version"] == last
    surviving = {(step["incarnation"], step["policy_version"]) for step in steps}
    assert {number for incarnation, number in surviving if incarnation == 1} == set(range(reached + 1, last + 1))
    assert {step["loss_tokens"] for step in steps} == {TOKEN_BUDGET}
    assert audit(live.run_dir.path).is_clean


def test_controller_learner_and_replay_may_die_too(tmp_path: Path):
    with fleet(tmp_path, "killed", "stop.policy_versions=16", "checkpoint.every_versions=4") as live:
        live.wait_version(3)
        survivor = live.pid_of("rollout-0")
        live.kill("controller-0")
        live.wait_version(6)
        assert live.pid_of("rollout-0") == survivor, "actors live on while the controller is away"
        live.kill("learner-0")
        live.wait_until(lambda: len(live.events("actor_lost")) == 1, "the learner's death being noticed")
        live.wait_version(9)
        live.kill("replay-0")
        assert live.wait_end() == 0, live.output()
    assert {step["loss_tokens"] for step in live.steps()} == {TOKEN_BUDGET}
    assert max(step["staleness_max"] for step in live.steps()) <= 4
    report = audit(live.run_dir.path)
    assert report.is_clean, report.to_text()


def test_a_synchronous_run_trains_only_on_fresh_tokens(tmp_path: Path):
    with fleet(tmp_path, "sync", "mode=sync", "stop.policy_versions=6") as live:
        assert live.wait_end() == 0, live.output()
    assert {step["staleness_max"] for step in live.steps()} == {0}
    assert {step["loss_tokens"] for step in live.steps()} == {TOKEN_BUDGET}

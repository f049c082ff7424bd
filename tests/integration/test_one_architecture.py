"""One architecture at every size: cluster.yaml's fleet is local.yaml's, but for engines and how weights travel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from live_fleet import CLUSTER, LOCAL, LiveFleet, fleet, read_lines

pytestmark = pytest.mark.slow

NUM_VERSIONS = 3
ON_ONE_MACHINE = (
    "rollout.engine=embedded", "weights.channel=zmq", "rollout.num=1", "reward.num=1",
    "model.path=builtin:tiny", "model.dtype=float32",
    "rollout.max_tokens=56", "learner.token_capacity=512", "placement.gpus={}",
    "placement.cpus={controller: 0.1, rollout: 0.5, reward: 0.2, replay: 0.2, learner: 0.5, evaluator: 0.2}",
)  # fmt: skip
"""What cluster.yaml asks of GPUs and of a larger machine, taken back."""
EVALUATED = ("evaluation.every_versions=2", "evaluation.num_problems=4", "evaluation.num_samples=1")


def parts_of(run_dir: Path) -> dict[str, dict[str, str]]:
    """The classes each actor said it is made of, from its own log."""
    found = {}
    for path in run_dir.glob("logs/*-*.log"):
        for line in re.findall(r"parts: (.*)", path.read_text()):
            found[path.stem] = dict(part.split("=") for part in line.split())
    return found


def train_a_little(run: LiveFleet) -> None:
    """A few steps and an evaluation, then the end."""
    run.wait_version(NUM_VERSIONS, timeout_s=240.0)
    run.wait_until(lambda: bool(read_lines(run.run_dir.evaluations)), "an evaluation", timeout_s=240.0)
    run.client.post("/v1/down", {"deadline_s": 20.0})
    assert run.wait_end() == 0, run.output()


def test_the_cluster_configuration_runs_the_same_classes_over_encrypted_tcp(tmp_path: Path):
    with fleet(tmp_path, "cluster", *EVALUATED, *ON_ONE_MACHINE, config=CLUSTER) as live:
        train_a_little(live)
    with fleet(tmp_path, "local", *EVALUATED, config=LOCAL) as small:
        train_a_little(small)
    cluster, local = parts_of(live.run_dir.path), parts_of(small.run_dir.path)
    assert local["rollout-0"] == {
        "actor": "Rollout", "transport": "ZmqTransport", "engine": "EmbeddedEngine", "receiver": "ShmWeightReceiver",
    }  # fmt: skip
    assert local["learner-0"] == {"actor": "Learner", "transport": "ZmqTransport", "sender": "ShmWeightSender"}
    assert local["evaluator-0"] == local["rollout-0"] | {"actor": "Evaluator"}
    assert cluster["evaluator-0"] == cluster["rollout-0"] | {"actor": "Evaluator"}
    assert cluster["rollout-0"] == local["rollout-0"] | {"receiver": "ZmqWeightReceiver"}
    assert cluster["learner-0"] == local["learner-0"] | {"sender": "ZmqWeightSender"}
    for actor_id in ("reward-0", "replay-0"):
        assert cluster[actor_id] == local[actor_id]
    for run in (live, small):
        first = read_lines(run.run_dir.evaluations)[0]
        assert (first["num_problems"], first["num_failed"], first["k"]) == (4, 0, 1)
        assert {step["loss_tokens"] for step in run.steps()} == {1024}
    keys = live.run_dir.keys
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}

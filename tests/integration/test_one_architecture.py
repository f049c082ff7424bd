"""One architecture at every size: cluster.yaml's fleet is local.yaml's, but for engines and how weights travel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from live_fleet import CLUSTER, LOCAL, fleet

pytestmark = pytest.mark.slow

NUM_VERSIONS = 3
ON_ONE_MACHINE = (
    "rollout.engine=embedded", "learner.engine=hf", "weights.channel=zmq", "rollout.num=1", "reward.num=1",
    "rollout.max_tokens=56", "learner.token_capacity=512", "placement.gpus={}",
    "placement.cpus={controller: 0.1, rollout: 0.5, reward: 0.2, replay: 0.2, learner: 0.5}",
)  # fmt: skip
"""What cluster.yaml asks of GPUs and of a larger machine, taken back."""


def parts_of(run_dir: Path) -> dict[str, dict[str, str]]:
    """The classes each actor said it is made of, from its own log."""
    found = {}
    for path in run_dir.glob("logs/*-*.log"):
        for line in re.findall(r"parts: (.*)", path.read_text()):
            found[path.stem] = dict(part.split("=") for part in line.split())
    return found


def test_the_cluster_configuration_runs_the_same_classes_over_encrypted_tcp(tmp_path: Path):
    with fleet(tmp_path, "cluster", f"stop.policy_versions={NUM_VERSIONS}", *ON_ONE_MACHINE, config=CLUSTER) as live:
        assert live.wait_end() == 0, live.output()
    with fleet(tmp_path, "local", f"stop.policy_versions={NUM_VERSIONS}", config=LOCAL) as small:
        assert small.wait_end() == 0, small.output()
    cluster, local = parts_of(live.run_dir.path), parts_of(small.run_dir.path)
    assert local["rollout-0"] == {
        "actor": "Rollout", "transport": "ZmqTransport", "engine": "EmbeddedEngine", "receiver": "ShmWeightReceiver",
    }  # fmt: skip
    assert local["learner-0"] == {"actor": "Learner", "transport": "ZmqTransport", "sender": "ShmWeightSender"}
    assert cluster["rollout-0"] == local["rollout-0"] | {"receiver": "ZmqWeightReceiver"}
    assert cluster["learner-0"] == local["learner-0"] | {"sender": "ZmqWeightSender"}
    for actor_id in ("reward-0", "replay-0"):
        assert cluster[actor_id] == local[actor_id]
    assert [step["loss_tokens"] for step in live.steps()] == [1024] * NUM_VERSIONS
    keys = live.run_dir.keys
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}

"""What `check` says, and on what grounds `up` refuses: every part that cannot work here, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.cli.check import check_parts
from ring_async.errors import ConfigError
from ring_async.placement import ray_cluster
from ring_async.testing.builders import make_config


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def problems(tmp_path: Path, **overrides: object) -> list[str]:
    """What is said of a configuration whose prompts lie in a file that is not there."""
    sources = {"sums": {"kind": "jsonl", "path": str(tmp_path / "sums.jsonl"), "verifier": "exact"}}
    with pytest.raises(ConfigError) as refused:
        check_parts(make_config(sources=sources, **overrides))
    return str(refused.value).splitlines()


def test_every_part_that_is_not_here_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_cluster, "num_gpus", lambda: 1)
    said = problems(
        tmp_path,
        rollout__engine="sglang", rollout__num=2, learner__engine="megatron", placement__gpus={"rollout": 1},
        placement__num_cpus=4, monitoring__grafana={"url": "http://grafana:3000"},
        model__path="/no/such/model",
    )  # fmt: skip
    assert said == [
        "rollout.engine: sglang: not here, because the package sglang is missing: install 0.5.17 (for torch 2.11) or a "
        "later one (docs/sglang.md), or use embedded",
        "learner.engine: megatron: not here, because this release does not have it; choose hf",
        "placement.gpus: the fleet needs 2 (rollout 2), this machine has 1; lower rollout.num, reward.num, "
        "learner.num_ranks or placement.gpus, or add machines",
        "monitoring.grafana.url: needs a token, in monitoring.grafana.token_file or $GRAFANA_TOKEN",
        *said[4:],
    ]
    model, source = said[4:]
    assert model.startswith("model.path: /no/such/model: ")
    assert source.startswith("sources.sums.path: ")


def test_a_cluster_s_own_hosts_are_not_judged_by_this_machine(monkeypatch: pytest.MonkeyPatch):
    config = make_config(placement__gpus={"rollout": 64})
    monkeypatch.setattr(ray_cluster, "num_gpus", lambda: 0)
    assert len(ray_cluster.problems_here(config)) == 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_cluster.problems_here(config) == []


def test_learner_ranks_count_as_many_gpus_as_they_are():
    config = make_config(learner__num_ranks=4, placement__gpus={"learner": 1})
    assert ray_cluster.placement_problems(config, {"GPU": 4.0}, "here") == []
    (said,) = ray_cluster.placement_problems(config, {"GPU": 3.0}, "here")
    assert said.startswith("placement.gpus: the fleet needs 4 (learner 4), here has 3")

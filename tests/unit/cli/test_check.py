"""What `check` says, and on what grounds `up` refuses: every part that cannot work here, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.cli.check import _learner_memory, check_parts
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
        rollout__engine="sglang", rollout__num=2, learner__engine_options={"x": 1}, placement__gpus={"rollout": 1},
        placement__num_cpus=4, monitoring__grafana={"url": "http://grafana:3000"},
        model__path="/no/such/model",
    )  # fmt: skip
    assert said == [
        "rollout.engine: sglang: not here, because the package sglang is missing: install 0.5.17 (for torch 2.11) or a "
        "later one (docs/sglang.md), or use embedded",
        "learner.engine: hf: not here, because it takes no learner.engine_options but device, attention, compile, "
        "head, not x; leave them out",
        "placement.gpus: the fleet needs 2 (rollout 2), this machine has 1; lower rollout.num, reward.num, "
        "learner.parallel or placement.gpus, or add machines",
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


def test_what_a_rank_of_the_learner_needs_of_its_gpu_is_said():
    said = _learner_memory(make_config(learner__parallel__shard=2, placement__gpus={"learner": 2}))
    # The tiny model: a chunk of the head, and little else.
    assert said.startswith("learner: 2 ranks, about 8.0 GiB (state 0.0, ")


def test_a_learner_of_many_ranks_needs_the_gpus_of_its_process():
    config = make_config(learner__parallel__shard=4, placement__gpus={"learner": 4})
    assert ray_cluster.placement_problems(config, {"GPU": 4.0}, "here") == []
    (said,) = ray_cluster.placement_problems(config, {"GPU": 3.0}, "here")
    assert said.startswith("placement.gpus: the fleet needs 4 (learner 4), here has 3")


def test_settings_under_which_no_batch_would_ever_be_made_are_refused():
    with pytest.raises(ConfigError, match=r"replay\.max_buffer_tokens: 80 cannot hold one batch"):
        check_parts(make_config(budget__token_budget=64, rollout__max_tokens=16, replay__max_buffer_tokens=80))

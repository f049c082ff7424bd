"""The shipped configurations for GPUs: good on machines that have what they name, elsewhere refused for that alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from ring_async.cli.check import part_problems
from ring_async.config.load import load_config
from ring_async.placement import ray_cluster

CONFIGS = Path(__file__).parents[3] / "configs"
A_MODEL = ("model.path=builtin:tiny", "rollout.max_tokens=100")
"""The shipped model, and responses that fit into it."""
LACKS = re.compile(
    r"rollout\.engine: sglang: not here, because the package (sglang|aiohttp) is missing"
    r"|weights\.channel: nccl: not here, because the package cupy is missing"
    r"|placement\.(cpus|gpus): the fleet needs "
    r"|model\.path: models/start: .* holds no config\.json"
)


@pytest.mark.parametrize(("name", "num_gpus"), [("gpu_1x", 1), ("gpu_2x", 2), ("cluster", 9)])
def test_nothing_is_wrong_where_everything_is(name: str, num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.17")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [SimpleNamespace(name="ring_async")])
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: object() if name == "cupy" else find_spec(name, *more)
    )
    monkeypatch.setattr(ray_cluster, "num_gpus", lambda: num_gpus)
    monkeypatch.setattr(ray_cluster, "num_cpus", lambda _: 128)
    assert list(part_problems(load_config(CONFIGS / f"{name}.yaml", A_MODEL))) == []


@pytest.mark.parametrize("name", ["gpu_1x", "gpu_2x", "cluster"])
def test_a_machine_without_gpus_is_told_what_it_lacks_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "num_gpus", lambda: 0)
    problems = list(part_problems(load_config(CONFIGS / f"{name}.yaml")))
    assert any("placement.gpus: the fleet needs" in problem for problem in problems)
    assert [problem for problem in problems if not LACKS.match(problem)] == []

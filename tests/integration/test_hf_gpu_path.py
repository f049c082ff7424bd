"""What the hf trainer does on a GPU, rehearsed on the CPU: packed attention, layers compiled once, chunked head.

The kernel itself is stood in for by a loop, and the compiler by a backend that counts graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import tqdm

from rank_process import make_batch, settings
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.hf.optimizer import Optimizer
from ring_async.training.hf.precision import MasterWeights
from tiny_models import VOCABULARY, write_tiny_bailing, write_tiny_moe

# torch's own, while it traces
pytestmark = pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor")

NUMBERS = ("grad_norm", "surrogate", "entropy", "effective_sample_size")


@pytest.fixture(autouse=True)
def _no_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler shows one, whose thread stays behind."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "dense": write_tiny_llama(folder / "dense", vocabulary=VOCABULARY),
        "experts": write_tiny_moe(folder / "experts"),
        "bailing": write_tiny_bailing(folder / "bailing"),
    }


def make_engine(model: Path, options: dict[str, str], **overrides: Any) -> HfTrainEngine:
    return HfTrainEngine(make_config(**settings(1, learner__engine_options=options, **overrides)), model)


@pytest.mark.parametrize("model", ["dense", "experts", "bailing"])
@pytest.mark.parametrize(
    "options",
    [
        {"attention": "varlen"},
        {"attention": "varlen", "head": "chunked"},
        {"attention": "varlen", "head": "chunked", "compile": "aot_eager"},
    ],
    ids=["attention", "and head", "and compiled layers"],
)
def test_the_gpu_s_path_learns_what_the_cpu_s_does(models: dict[str, Path], model: str, options: dict[str, str]):
    plain = make_engine(models[model], {})
    other = make_engine(models[model], options, learner__recompute=0.5)
    for seed in (0, 1):
        one, two = plain.train_batch(make_batch(seed, 1)).metrics, other.train_batch(make_batch(seed, 1)).metrics
        assert {name: two[name] for name in NUMBERS} == pytest.approx({name: one[name] for name in NUMBERS}, abs=1e-4)


def test_batches_of_any_lengths_meet_the_graphs_of_the_first(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.register_backend(count, name="count_graphs")
    engine = make_engine(models["dense"], {"attention": "varlen", "compile": "count_graphs"})
    for seed in (0, 1, 2, 3):  # with and without shared prompts, until every size has changed once
        engine.train_batch(make_batch(seed, 1))
    num_graphs = len(graphs)
    assert num_graphs > 0
    for seed in (4, 5, 6):
        engine.train_batch(make_batch(seed, 1))
    assert len(graphs) == num_graphs


def test_master_weights_train_like_float32_within_the_precision_of_bfloat16(models: dict[str, Path]):
    rate = {"learner__learning_rate": 1e-3}
    plain = make_engine(models["dense"], {}, **rate)
    mixed = make_engine(models["dense"], {"attention": "varlen", "head": "chunked"}, **rate)
    mixed._master = MasterWeights(mixed._model.module)
    mixed._parameters = mixed._master.parameters
    mixed._optimizer = Optimizer(mixed._parameters.items(), mixed._config.learner)
    for seed in (0, 1, 2):
        one, two = plain.train_batch(make_batch(seed, 1)).metrics, mixed.train_batch(make_batch(seed, 1)).metrics
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.1)
        assert two["entropy"] == pytest.approx(one["entropy"], rel=0.02)
    weights, expected = dict(mixed.snapshot().tensors()), dict(plain.snapshot().tensors())
    assert all(float((weights[name] - expected[name]).abs().max()) < 0.01 for name in expected)

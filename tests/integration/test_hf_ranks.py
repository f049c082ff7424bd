"""The hf trainer over two and three ranks, which are real processes: equal to one rank in what it learns and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rank_process import do_task, run_ranks
from ring_async.models.causal_lm import load_causal_lm
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.ranks import alone
from tiny_models import VOCABULARY, write_tiny_bailing, write_tiny_moe

SEEDS = [0, 1, 2, 3]
CASES: dict[str, dict[str, Any]] = {
    "dense": {"model": "dense"},
    "experts": {"model": "experts"},
    "bailing": {"model": "bailing"},
    "minibatches, penalty and bonus": {
        "model": "dense",
        "overrides": {
            "budget__minibatches_per_batch": 3,
            "loss__kl_coefficient": 0.1,
            "loss__entropy_coefficient": 0.02,
            "correction__icepop_on": "mismatch",
        },
    },
    "everything computed again": {"model": "dense", "overrides": {"learner__recompute": 1.0}},
}
NUMBERS = ("grad_norm", "surrogate", "entropy", "effective_sample_size", "behavior_ratio_masked", "reward_mean")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[dict[str, Any]]:
    models = {
        "dense": str(write_tiny_llama(folder / "dense", vocabulary=VOCABULARY)),
        "experts": str(write_tiny_moe(folder / "experts")),
        "bailing": str(write_tiny_bailing(folder / "bailing")),
    }
    return [
        task | {"model": models[task["model"]], "seeds": SEEDS, "save": str(folder / "saved" / str(index))}
        for index, task in enumerate(CASES.values())
    ]


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tasks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    spoiled = {"model": tasks[0]["model"], "seeds": SEEDS[:2], "spoil": 3e38}
    return run_ranks(2, [*tasks, spoiled | {"overrides": {"correction__rule": "none"}}], folder / "two")


@pytest.fixture(scope="module")
def three_ranks(folder: Path, tasks: list[dict[str, Any]], two_ranks: object) -> Path:
    """Three ranks restore what two saved, and save it again at once."""
    again = [
        {key: task[key] for key in ("model", "overrides") if key in task}
        | {"restore": task["save"], "save": str(folder / "again" / str(index))}
        for index, task in enumerate(tasks)
    ]
    run_ranks(3, again, folder / "three")
    return folder / "again"


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)


def tensors_of(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob(f"{stem}*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("index", range(len(CASES)), ids=list(CASES))
def test_two_ranks_learn_what_one_learns(folder: Path, tasks: list[dict[str, Any]], two_ranks: Any, index: int):
    task = {key: value for key, value in tasks[index].items() if key != "save"}
    alone_metrics, alone_weights = do_task(task, alone())
    for one, two in zip(alone_metrics, two_ranks[index], strict=True):
        assert one["loss_tokens"] == two["loss_tokens"] == 66
        assert {name: two[name] for name in NUMBERS} == pytest.approx({name: one[name] for name in NUMBERS}, abs=1e-4)
        assert one["num_sequences"] == two["num_sequences"]
        assert one["reward_by_source"] == two["reward_by_source"]
    weights = load_file(folder / "two" / f"{index}.safetensors")
    assert difference(alone_weights, weights) < 1e-4


@pytest.mark.timeout(240)
@pytest.mark.parametrize("index", range(len(CASES)), ids=list(CASES))
def test_what_two_ranks_saved_one_and_three_restore_bit_for_bit(
    folder: Path, tasks: list[dict[str, Any]], three_ranks: Path, index: int
):
    saved, again = folder / "saved" / str(index), three_ranks / str(index)
    assert len(list(saved.glob("model-*.safetensors"))) == 2
    assert len(list(again.glob("model-*.safetensors"))) == 3
    for stem in ("model", "optimizer"):
        assert difference(tensors_of(saved, stem), tensors_of(again, stem)) == 0
    one = {key: tasks[index][key] for key in ("model", "overrides") if key in tasks[index]}
    task = one | {"restore": str(saved), "save": str(folder / "alone" / str(index))}
    _, published = do_task(task, alone())
    assert difference(published, tensors_of(saved, "model")) == 0
    assert difference(tensors_of(folder / "alone" / str(index), "optimizer"), tensors_of(saved, "optimizer")) == 0


@pytest.mark.timeout(240)
def test_a_gradient_that_one_rank_finds_infinite_is_a_step_of_none(folder: Path, tasks: Any, two_ranks: Any):
    assert [metrics["nonfinite_steps"] for metrics in two_ranks[-1]] == [1, 1]
    start = tensors_of(Path(tasks[0]["model"]), "model")
    assert difference(load_file(folder / "two" / f"{len(CASES)}.safetensors"), start) == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("index", [0, 1, 2], ids=["dense", "experts", "bailing"])
def test_a_checkpoint_of_ranks_is_a_hugging_face_directory(folder: Path, two_ranks: Any, index: int):
    model = load_causal_lm(folder / "saved" / str(index), dtype=torch.float32, attention="sdpa")
    model.save_pretrained(folder / "hugging_face" / str(index))
    theirs = load_file(folder / "hugging_face" / str(index) / "model.safetensors")
    assert difference(theirs, load_file(folder / "two" / f"{index}.safetensors")) == 0

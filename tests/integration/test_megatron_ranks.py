"""The megatron trainer over one, two and three ranks, which are real processes: equal to one rank of `hf`."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bait import Touch
from rank_process import do_task, make_batch, run_ranks
from ring_async.models.causal_lm import load_causal_lm
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.ranks import alone
from tiny_models import FAMILIES, VOCABULARY, write_family, write_tiny_moe

pytestmark = pytest.mark.timeout(600)

SEEDS = [0, 1, 2]
OBJECTIVE = {
    "budget__minibatches_per_batch": 3,
    "loss__kl_coefficient": 0.1,
    "loss__entropy_coefficient": 0.02,
    "correction__icepop_on": "mismatch",
    "learner__recompute": 1.0,
}
REPLAYED = {"learner__engine_options": {"replay_routing": True}}
CASES: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "dense, data 2": ("dense", {"data": 2}, {}),
    "dense, tensor 2": ("dense", {"tensor": 2}, {}),
    "dense, pipeline 2": ("dense", {"pipeline": 2}, {}),
    "dense, pipeline 2, whole objective": ("dense", {"pipeline": 2}, OBJECTIVE),
    "experts, data 2, expert 2": ("experts", {"data": 2, "expert": 2}, {}),
    "experts, tensor 2": ("experts", {"tensor": 2}, {}),
    "experts, tensor 2, expert 2": ("experts", {"tensor": 2, "expert": 2}, {}),
    "experts, tensor 2, expert 2, whole objective": ("experts", {"tensor": 2, "expert": 2}, OBJECTIVE),
    "experts, tensor 2, expert 2, replayed": ("experts", {"tensor": 2, "expert": 2}, OBJECTIVE | REPLAYED),
    "experts, pipeline 2, replayed": ("experts", {"pipeline": 2}, REPLAYED),
    "dense, tensor 2, attention of a GPU": (
        "dense",
        {"tensor": 2},
        {"learner__engine_options": {"attention": "varlen"}},
    ),
}
RESTORED = {
    1: [index for index, (_, _, objective) in enumerate(CASES.values()) if not objective],
    3: [list(CASES).index("dense, tensor 2"), list(CASES).index("experts, data 2, expert 2")],
}
"""By the number of ranks that restore: which cases."""
SPLIT = ["qwen2", "qwen3", "bailing_moe"]
"""Families that two tensor ranks score too: between them they have every part that is split in its own way."""
ROUTED = {"loss__balance_coefficient": 0.3, "loss__router_z_coefficient": 0.1}
"""Losses on routers, which hf does not have."""
NUMBERS = ("grad_norm", "surrogate", "entropy", "effective_sample_size", "behavior_ratio_masked", "reward_mean")


def megatron(**parallel: int) -> dict[str, Any]:
    layout = {f"learner__parallel__{key}": value for key, value in parallel.items()}
    return {"learner__engine": "megatron", "learner__parallel__shard": 1} | layout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("megatron")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, str]:
    dense = write_tiny_llama(folder / "dense", vocabulary=VOCABULARY)
    return {"dense": str(dense), "experts": str(write_tiny_moe(folder / "experts"))} | {
        name: str(write_family(name, folder / name)) for name in FAMILIES
    }


@pytest.fixture(scope="module")
def two_ranks(folder: Path, models: dict[str, str]) -> list[list[dict[str, Any]]]:
    """Every case trained and saved; then the families' log-probabilities; then batches whose gradient is infinite."""
    trained = [
        {
            "model": models[model],
            "seeds": SEEDS,
            "overrides": megatron(**layout) | objective,
            "save": str(folder / "saved" / str(index)),
        }
        for index, (model, layout, objective) in enumerate(CASES.values())
    ]
    scored = [{"model": models[name], "logprobs": 5, "overrides": megatron(tensor=2)} for name in SPLIT]
    spoiled = {"model": models["experts"], "seeds": SEEDS, "spoil": 3e38}
    limits = {"correction__rule": "none", "learner__max_nonfinite_steps": 1}
    spoiled |= {"overrides": megatron(data=2, expert=2) | limits}
    routed = {"model": models["experts"], "seeds": SEEDS, "overrides": megatron(tensor=2, expert=2) | ROUTED}
    return run_ranks(2, [*trained, *scored, routed, spoiled], folder / "two")


@pytest.fixture(scope="module")
def baited(folder: Path, two_ranks: object) -> tuple[Path, Path]:
    """Copies of a checkpoint: with pickles beside its files, and with one in a file's place."""
    content = pickle.dumps(Touch(folder / "marker"))
    beside, inside = folder / "beside", folder / "inside"
    for copy in (beside, inside):
        shutil.copytree(folder / "saved" / "0", copy)
    for name in (".metadata", "common.pt", "__0_0.distcp", "optimizer.pt", "pytorch_model.bin"):
        (beside / name).write_bytes(content)
    (inside / "optimizer-00001-of-00002.safetensors").write_bytes(content)
    return beside, inside


@pytest.fixture(scope="module")
def one_rank(folder: Path, models: dict[str, str], baited: tuple[Path, Path]) -> list[list[dict[str, Any]]]:
    """One rank restores what two saved, and saves it again; it scores the families; it restores what is baited."""
    scored = [{"model": models[name], "logprobs": 5, "overrides": megatron()} for name in FAMILIES]
    hostile = [{"model": models["dense"], "overrides": megatron(), "restore": str(copy)} for copy in baited]
    routed = {"model": models["experts"], "seeds": SEEDS, "overrides": megatron() | ROUTED}
    return run_ranks(1, [*again(folder, models, 1), *scored, *hostile, routed], folder / "one")


@pytest.fixture(scope="module")
def three_ranks(folder: Path, models: dict[str, str], two_ranks: object) -> None:
    run_ranks(3, again(folder, models, 3), folder / "three")


def again(folder: Path, models: dict[str, str], num_ranks: int) -> list[dict[str, Any]]:
    """Tasks of other ranks, which restore what two saved, and save it at once."""
    return [
        {
            "model": models[list(CASES.values())[index][0]],
            "overrides": megatron(data=num_ranks),
            "restore": str(folder / "saved" / str(index)),
            "save": str(folder / f"again-{num_ranks}" / str(index)),
        }
        for index in RESTORED[num_ranks]
    ]


def tensors_of(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob(f"{stem}*.safetensors") for name, tensor in load_file(path).items()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(CASES))
def test_two_ranks_learn_what_one_rank_of_hf_learns(folder: Path, models: dict[str, str], two_ranks: Any, index: int):
    model, _, objective = list(CASES.values())[index]
    expected, weights = do_task({"model": models[model], "seeds": SEEDS, "overrides": objective}, alone())
    for one, two in zip(expected, two_ranks[index], strict=True):
        assert one["loss_tokens"] == two["loss_tokens"] == 66
        assert {name: two[name] for name in NUMBERS} == pytest.approx({name: one[name] for name in NUMBERS}, abs=1e-4)
        assert one["num_sequences"] == two["num_sequences"]
        assert one["reward_by_source"] == two["reward_by_source"]
    assert difference(weights, load_file(folder / "two" / f"{index}.safetensors")) < 1e-4


@pytest.mark.parametrize(
    ("num_ranks", "index"), [(num_ranks, index) for num_ranks, indices in RESTORED.items() for index in indices]
)
def test_what_two_ranks_saved_one_and_three_restore_bit_for_bit(
    folder: Path, one_rank: object, three_ranks: object, index: int, num_ranks: int
):
    saved, restored = folder / "saved" / str(index), folder / f"again-{num_ranks}" / str(index)
    assert len(list(restored.glob("model*.safetensors"))) == num_ranks
    for stem in ("model", "optimizer"):
        assert difference(tensors_of(saved, stem), tensors_of(restored, stem)) == 0


def test_the_hf_trainer_goes_on_from_a_checkpoint_of_megatron(folder: Path, models: dict[str, str], two_ranks: Any):
    further = {"model": models["dense"], "seeds": [7]}
    expected, _ = do_task({**further, "seeds": [*SEEDS, 7]}, alone())
    found, _ = do_task({**further, "restore": str(folder / "saved" / "0")}, alone())
    assert found[-1]["grad_norm"] == pytest.approx(expected[-1]["grad_norm"], abs=1e-4)


@pytest.mark.parametrize("index", range(len(FAMILIES)), ids=list(FAMILIES))
def test_a_family_scores_as_transformers_does(models: dict[str, str], two_ranks: Any, one_rank: Any, index: int):
    batch = make_batch(5, 2)
    model = load_causal_lm(Path(models[list(FAMILIES)[index]]), dtype=torch.float32, attention="eager")
    expected = np.zeros(batch.input_ids.shape)
    for sequence in batch.plan.sequences:
        end = sequence.offset + sequence.num_prompt_tokens + sequence.num_response_tokens
        ids = torch.tensor(batch.input_ids[sequence.row, sequence.offset : end], dtype=torch.int64)
        with torch.no_grad():
            scores = model(ids[None]).logits[0].log_softmax(-1)
        found = scores[:-1].gather(1, ids[1:, None])[:, 0]
        expected[sequence.row, sequence.offset + 1 : end] = found.numpy()
    name = list(FAMILIES)[index]
    found_by = [one_rank[len(RESTORED[1]) + index]]
    if name in SPLIT:
        found_by.append(two_ranks[len(CASES) + SPLIT.index(name)])
    for (scored,) in found_by:
        np.testing.assert_allclose(scored["logprobs"], expected, atol=1e-4)


def test_a_gradient_that_one_rank_finds_infinite_is_a_step_of_none_and_ends_the_run_after_the_limit(
    folder: Path, models: dict[str, str], two_ranks: Any
):
    first, second, third = two_ranks[-1]
    assert first["nonfinite_steps"] == 1
    assert "weights are those of version" in second["diverged"]
    assert "weights are those of version" in third["diverged"]
    start = tensors_of(Path(models["experts"]), "model")
    published = load_file(folder / "two" / f"{len(CASES) + len(SPLIT) + 1}.safetensors")
    assert difference(published, start) == 0


def test_losses_on_routers_are_those_of_one_rank(two_ranks: Any, one_rank: Any):
    norms = [step["grad_norm"] for step in one_rank[-1]]
    plain = [step["grad_norm"] for step in two_ranks[list(CASES).index("experts, tensor 2, expert 2")]]
    assert [step["grad_norm"] for step in two_ranks[-2]] == pytest.approx(norms, abs=1e-4)
    assert norms != pytest.approx(plain, abs=1e-3)


def test_a_hostile_folder_executes_nothing(folder: Path, one_rank: Any, baited: tuple[Path, Path]):
    beside, inside = one_rank[-3:-1]
    assert beside == []
    restored = load_file(folder / "one" / f"{len(RESTORED[1]) + len(FAMILIES)}.safetensors")
    assert difference(restored, tensors_of(folder / "saved" / "0", "model")) == 0
    assert "cannot read" in inside[0]["refused"]
    assert not (folder / "marker").exists()
    pickle.loads((baited[0] / ".metadata").read_bytes())
    assert (folder / "marker").exists(), "the bait works"

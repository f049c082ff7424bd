"""Replayed experts: exactly those recorded, weighted by the learner's own gate, which learns as usual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm

from rank_process import make_batch, settings
from ring_async.batches import PackedBatch
from ring_async.errors import ConfigError
from ring_async.models.causal_lm import load_causal_lm
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.hf.routing import RouterReplay
from ring_async.training.routed_experts import COLUMN
from tiny_models import write_tiny_bailing, write_tiny_moe

pytestmark = pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor")  # torch's own, while it traces
NUM_LAYERS, TOP_K, NUM_EXPERTS = 2, 2, 4
WIDTH = NUM_LAYERS * TOP_K


@pytest.fixture(autouse=True)
def _no_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler shows one, whose thread stays behind."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module", params=["qwen3", "bailing"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write = write_tiny_moe if request.param == "qwen3" else write_tiny_bailing
    return write(tmp_path_factory.mktemp(request.param))


def make_engine(folder: Path, *, replays: bool = True, **options: str) -> HfTrainEngine:
    return HfTrainEngine(
        make_config(**settings(1, learner__engine_options={"replay_routing": replays, **options})), folder
    )


def with_experts(batch: PackedBatch, experts: np.ndarray) -> PackedBatch:
    return replace(batch, columns={COLUMN: experts.astype(np.uint8).reshape(*batch.input_ids.shape, WIDTH)})


def responses_of(batch: PackedBatch) -> list[tuple[list[int], int, int]]:
    """The ids of each sequence, its first position in the rows, and its number of prompt tokens."""
    found = []
    for sequence in batch.plan.sequences:
        first = sequence.row * batch.plan.token_capacity + sequence.offset
        length = sequence.num_prompt_tokens + sequence.num_response_tokens
        found.append((batch.input_ids.reshape(-1)[first : first + length].tolist(), first, sequence.num_prompt_tokens))
    return found


def own_experts(folder: Path, batch: PackedBatch) -> np.ndarray:
    """What the model itself chooses for every token of a response: `[B · C, layers · k]`, 0 for prompts and padding."""
    model = load_causal_lm(folder, dtype=torch.float32, attention="sdpa").requires_grad_(False)
    chosen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _module, _inputs, outputs: chosen.append(outputs[2]))
    experts = np.zeros((batch.input_ids.size, WIDTH), np.int64)
    for ids, first, num_prompt in responses_of(batch):
        chosen.clear()
        model(torch.tensor([ids]))
        experts[first + num_prompt : first + len(ids)] = torch.cat(chosen, dim=1)[num_prompt:].numpy()
    return experts


def test_the_learner_s_own_choice_replayed_changes_nothing(folder: Path):
    batch = make_batch(0, 1)
    plain, replayed = make_engine(folder, replays=False), make_engine(folder)
    same = with_experts(batch, own_experts(folder, batch))
    assert np.array_equal(replayed.logprobs(same), plain.logprobs(batch))
    one, two = plain.train_batch(batch).metrics, replayed.train_batch(same).metrics
    assert (one["grad_norm"], one["entropy"]) == (two["grad_norm"], two["entropy"])


def test_tokens_of_responses_visit_the_recorded_experts_and_prompts_their_own(folder: Path):
    batch = make_batch(1, 1)
    own = own_experts(folder, batch)
    other = np.where(own.any(axis=1, keepdims=True), NUM_EXPERTS - 1 - own, 0)
    engine = make_engine(folder)
    seen: list[torch.Tensor] = []
    gate = engine._model.layers[0].mlp.gate
    gate.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs[2]))
    engine.logprobs(with_experts(batch, other))
    visited = torch.cat(seen).numpy()
    scored = batch.sequence_ids != 0
    origins = np.concatenate([forward.origins for forward in engine._forwards(batch, scored, scored)])
    is_response = origins >= 0
    assert np.array_equal(visited[is_response], other[origins[is_response], :TOP_K])
    plain: list[torch.Tensor] = []
    own_engine = make_engine(folder, replays=False)
    own_engine._model.layers[0].mlp.gate.register_forward_hook(lambda _m, _i, outputs: plain.append(outputs[2]))
    own_engine.logprobs(batch)
    assert np.array_equal(visited[~is_response], torch.cat(plain).numpy()[~is_response])


def test_the_gate_learns_from_the_weights_of_experts_that_it_did_not_choose(folder: Path):
    model = load_causal_lm(folder, dtype=torch.float32, attention="sdpa")
    replay = RouterReplay(model)
    gate = model.model.layers[0].mlp.gate
    hidden, forced = torch.randn(3, 16), torch.tensor([[3, 1], [0, 2], [2, 1]])
    gate.replayed = forced
    _, weights, chosen = gate(hidden)
    assert torch.equal(chosen, forced)
    weights[:, 0].sum().backward()
    weight = gate.weight.detach().double().requires_grad_()
    parts = (hidden.double() @ weight.T).softmax(-1).gather(1, forced)
    (parts[:, 0] / parts.sum(-1)).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) > 1e-3
    assert torch.allclose(gate.weight.grad, weight.grad.float(), atol=1e-6)
    replay.use(None)
    assert torch.equal(gate(hidden)[2], (hidden @ gate.weight.T).topk(2).indices)


def test_compiled_layers_and_layers_computed_again_replay_too(folder: Path):
    batch = make_batch(2, 1)
    other = with_experts(batch, np.tile([3, 0, 1, 2], (batch.input_ids.size, 1)))
    plain = make_engine(folder)
    options = {"replay_routing": True, "attention": "varlen", "head": "chunked", "compile": "aot_eager"}
    engine = HfTrainEngine(make_config(**settings(1, learner__recompute=0.5, learner__engine_options=options)), folder)
    one, two = plain.train_batch(other).metrics, engine.train_batch(other).metrics
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-5)
    assert one["grad_norm"] != pytest.approx(make_engine(folder, replays=False).train_batch(batch).metrics["grad_norm"])


@pytest.mark.parametrize(
    ("columns", "error", "line"),
    [
        (None, ConfigError, "batches carry no column routed_experts"),
        (np.zeros((1, 48, 6), np.uint8), ConfigError, "holds 6 experts a token, this model has 2 layers of 2"),
        (np.full((1, 48, WIDTH), 4, np.uint8), ValueError, "names expert 4 of 4"),
    ],
    ids=["no column", "of another model", "an expert that is not there"],
)
def test_a_column_that_does_not_fit_is_refused(folder: Path, columns: Any, error: type[Exception], line: str):
    batch = make_batch(0, 1)
    if columns is not None:
        columns = {COLUMN: np.repeat(columns, batch.input_ids.shape[0], axis=0)}
    with pytest.raises(error, match=line):
        make_engine(folder).logprobs(replace(batch, columns=columns or {}))


def test_a_model_without_experts_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no router that is known here"):
        make_engine(write_tiny_llama(tmp_path))

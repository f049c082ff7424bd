"""BailingMoE v1 against a float64 reference that reads the files, and the configuration as it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ring_async.models.bailing_moe import NormalizedHead
from ring_async.models.causal_lm import load_causal_lm, load_config
from ring_async.training.memory import model_sizes
from tiny_models import write_tiny_bailing

LING_LITE: dict[str, Any] = {
    "architectures": ["BailingMoeForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_bailing_moe.BailingMoeConfig"},
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "first_k_dense_replace": 0,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 16384,
    "model_type": "bailing_moe",
    "moe_intermediate_size": 1408,
    "num_experts": 64,
    "num_shared_experts": 2,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 600000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_qkv_bias": False,
    "vocab_size": 126464,
    "norm_head": True,
}
"""As inclusionAI publishes it."""


def reference_logits(files: dict[str, Tensor], config: dict[str, Any], ids: Tensor) -> Tensor:
    """Logits `[T, V]` in float64, token by token and expert by expert, from the tensors of the files."""
    weight = {name: tensor.double() for name, tensor in files.items()}
    heads, pairs, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return scale * x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()

    def feed_forward(x: Tensor, name: str) -> Tensor:
        gate, up, down = (weight[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))

    def rotate(x: Tensor, position: int) -> Tensor:
        angle = position / config["rope_theta"] ** (torch.arange(0, width, 2).double() / width)
        low, high = x[: width // 2], x[width // 2 :]
        return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()])

    hidden = weight["model.word_embeddings.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        states = norm(hidden, weight[f"{layer}.input_layernorm.weight"])
        joined = (states @ weight[f"{layer}.attention.query_key_value.weight"].T).view(len(ids), -1, width)
        query, key, value = joined.split([heads, pairs, pairs], dim=1)
        for token in range(len(ids)):
            attended = []
            for head in range(heads):
                pair = head * pairs // heads
                asked = rotate(query[token, head], token)
                scores = torch.stack([asked @ rotate(key[t, pair], t) for t in range(token + 1)]) / width**0.5
                attended.append(scores.softmax(0) @ value[: token + 1, pair])
            hidden[token] += weight[f"{layer}.attention.dense.weight"] @ torch.cat(attended)
        states = norm(hidden, weight[f"{layer}.post_attention_layernorm.weight"])
        for token in range(len(ids)):
            if index < config["first_k_dense_replace"]:
                hidden[token] += feed_forward(states[token], f"{layer}.mlp")
                continue
            scores = (weight[f"{layer}.mlp.gate.weight"] @ states[token]).softmax(0)
            best, chosen = scores.topk(config["num_experts_per_tok"])
            share = best / best.sum() if config["norm_topk_prob"] else best
            for expert, part in zip(chosen.tolist(), share, strict=True):
                hidden[token] += part * feed_forward(states[token], f"{layer}.mlp.experts.{expert}")
            if config["num_shared_experts"]:
                hidden[token] += feed_forward(states[token], f"{layer}.mlp.shared_experts")
    head = weight["lm_head.weight"]
    if config["norm_head"]:
        head = head / (head.norm(dim=0, keepdim=True) + 1e-7)
    return norm(hidden, weight["model.norm.weight"]) @ head.T


@pytest.mark.parametrize(
    "overrides",
    [{}, {"norm_head": False}, {"norm_topk_prob": False}, {"first_k_dense_replace": 1}, {"num_shared_experts": None}],
    ids=lambda overrides: ", ".join(overrides) or "as published",
)
def test_logits_are_those_of_the_reference(tmp_path: Path, overrides: dict[str, Any]):
    folder = write_tiny_bailing(tmp_path, **overrides)
    ids = torch.tensor([3, 1, 12, 7, 7, 0, 5, 2, 9])
    files, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    expected = reference_logits(files, config, ids)
    assert float(expected.std()) > 0.1
    model = load_causal_lm(folder, dtype=torch.float32, attention="sdpa").requires_grad_(False)
    assert float((model(ids[None]).logits[0] - expected).abs().max()) < 2e-5


def test_the_files_carry_the_published_names_and_no_others(tmp_path: Path):
    files = load_file(write_tiny_bailing(tmp_path, first_k_dense_replace=1) / "model.safetensors")
    layer = ["attention.dense", "attention.query_key_value", "input_layernorm", "post_attention_layernorm"]
    three = ["gate_proj", "up_proj", "down_proj"]
    experts = ["gate", *(f"experts.{e}.{part}" for e in range(4) for part in three)]
    expected = {
        *("lm_head.weight", "model.norm.weight", "model.word_embeddings.weight"),
        *(f"model.layers.{i}.{part}.weight" for i in (0, 1) for part in layer),
        *(f"model.layers.0.mlp.{part}.weight" for part in three),
        *(f"model.layers.1.mlp.{part}.weight" for part in [*experts, *(f"shared_experts.{p}" for p in three)]),
    }
    assert files.keys() == expected


def test_the_published_configuration_has_the_published_size(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LING_LITE))
    sizes = model_sizes(tmp_path)
    assert sizes.num_parameters / 1e9 == pytest.approx(16.8, abs=0.05)
    assert sizes.num_root_parameters == 2 * 126_464 * 2048
    # six experts and two shared ones for each token
    assert sizes.feed_forward_width == 8 * 1408
    layer = 2048 * (2 * 16 + 2 * 4) * 128 + 64 * 2048 + 3 * 2048 * sizes.feed_forward_width
    # as the authors count what a token activates: embedding and head are part of it
    assert (28 * layer + 2 * 126_464 * 2048) / 1e9 == pytest.approx(2.75, abs=0.01)


def test_a_written_configuration_is_read_back_with_the_keys_that_others_read(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LING_LITE))
    load_config(tmp_path).save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    kept = LING_LITE.keys() - {"torch_dtype", "rope_scaling"}
    assert {key: written[key] for key in kept} == {key: LING_LITE[key] for key in kept}
    assert load_config(tmp_path / "again").rope_parameters == {"rope_type": "default", "rope_theta": 600000}


def test_the_length_of_a_head_s_column_changes_neither_logits_nor_the_direction_of_its_gradient():
    torch.manual_seed(0)
    head, hidden = NormalizedHead(4, 7, bias=False), torch.randn(3, 4)
    stretch = torch.tensor([1.0, 3.0, 0.2, 5.0])
    stretched = NormalizedHead(4, 7, bias=False)
    stretched.weight.data = head.weight.data * stretch
    assert torch.allclose(stretched(hidden), head(hidden), atol=1e-5)
    for one in (head, stretched):
        one(hidden)[:, 2].sum().backward()
    # The length carries no gradient, so a column twice as long learns half as fast.
    assert head.weight.grad is not None
    assert stretched.weight.grad is not None
    assert torch.allclose(stretched.weight.grad * stretch, head.weight.grad, atol=1e-5)

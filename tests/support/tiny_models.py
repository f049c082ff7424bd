"""Tiny models of the families that the trainers know, as Hugging Face directories with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging as transformers_logging

from ring_async.models.bailing_moe import BailingMoeConfig, BailingMoeForCausalLM
from ring_async.models.causal_lm import make_causal_lm

VOCABULARY = 13
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "tie_word_embeddings": False,
}
_DENSE = {key: value for key, value in _SIZES.items() if "expert" not in key and "moe" not in key and "topk" not in key}
_SCALED_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_BAILING: dict[str, Any] = {
    "norm_head": True,
    "num_shared_experts": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 600.0},
    "pad_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.02,
}

FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**_DENSE | {"tie_word_embeddings": True}),
    "llama, scaled positions": LlamaConfig(**_DENSE, rope_parameters=_SCALED_ROPE),
    "qwen2": Qwen2Config(**_DENSE | {"tie_word_embeddings": True}),
    "qwen3": Qwen3Config(**_DENSE | {"head_dim": 8}),
    "qwen3_moe": Qwen3MoeConfig(**_SIZES),
    "qwen3_moe, a dense layer": Qwen3MoeConfig(**_SIZES | {"norm_topk_prob": False}, mlp_only_layers=[0]),
    "bailing_moe": BailingMoeConfig(**_SIZES | _BAILING),
    "bailing_moe, a dense layer": BailingMoeConfig(**_SIZES | _BAILING | {"norm_head": False}, first_k_dense_replace=1),
}
"""Configurations of all families, by what is peculiar to each."""


def write_family(name: str, folder: Path) -> Path:
    """Write a model of a family, biases and norms random too; returns the folder."""
    torch.manual_seed(7)
    model = make_causal_lm(FAMILIES[name]).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return _write(model, folder)


def write_tiny_moe(folder: Path) -> Path:
    """Write a two-layer Qwen3-MoE of four experts; returns the folder."""
    torch.manual_seed(1)
    return _write(Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SIZES)), folder)


def write_tiny_bailing(folder: Path, **overrides: Any) -> Path:
    """Write a two-layer BailingMoE of four experts and two shared ones; returns the folder."""
    torch.manual_seed(1)
    return _write(BailingMoeForCausalLM(BailingMoeConfig(**_SIZES | _BAILING | overrides)), folder)


def _write(model: PreTrainedModel, folder: Path) -> Path:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(5)  # so that distributions are far from uniform
    model.save_pretrained(folder)
    return folder

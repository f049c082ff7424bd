"""Tiny models of the families that the trainers know, as Hugging Face directories with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging as transformers_logging

from ring_async.models.bailing_moe import BailingMoeConfig, BailingMoeForCausalLM

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


def write_tiny_moe(folder: Path) -> Path:
    """Write a two-layer Qwen3-MoE of four experts; returns the folder."""
    torch.manual_seed(1)
    return _write(Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SIZES)), folder)


def write_tiny_bailing(folder: Path, **overrides: Any) -> Path:
    """Write a two-layer BailingMoE of four experts and two shared ones; returns the folder."""
    torch.manual_seed(1)
    own: dict[str, Any] = {
        "norm_head": True,
        "num_shared_experts": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 600.0},
        "pad_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
    }
    return _write(BailingMoeForCausalLM(BailingMoeConfig(**_SIZES | own | overrides)), folder)


def _write(model: PreTrainedModel, folder: Path) -> Path:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(5)  # so that distributions are far from uniform
    model.save_pretrained(folder)
    return folder

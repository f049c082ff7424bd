"""Tiny models of the families that the megatron trainer knows, as Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

_SIZES: dict[str, Any] = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_EXPERTS: dict[str, Any] = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
_SCALED_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**_SIZES, tie_word_embeddings=True),
    "llama, scaled positions": LlamaConfig(**_SIZES, tie_word_embeddings=False, rope_parameters=_SCALED_ROPE),
    "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SIZES, head_dim=8, tie_word_embeddings=False),
    "qwen3_moe": Qwen3MoeConfig(**_SIZES, **_EXPERTS, head_dim=4, norm_topk_prob=True, tie_word_embeddings=False),
    "qwen3_moe, a dense layer": Qwen3MoeConfig(
        **_SIZES, **_EXPERTS, head_dim=4, norm_topk_prob=False, mlp_only_layers=[0], tie_word_embeddings=False
    ),
}


def write_family(name: str, folder: Path) -> Path:
    """Write a random two-layer model of a family, biases and norms random too; returns the folder."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(FAMILIES[name], dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6).add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder

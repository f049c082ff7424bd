"""Ling-lite's `config.json` as inclusionAI publishes it, and a folder that holds it without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ring_async.models import resolve_model_path

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


def write_ling_lite(folder: Path, **overrides: Any) -> Path:
    """Write a model's folder with this configuration and the tiny model's tokenizer, without weights; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LING_LITE | overrides))
    for path in resolve_model_path("builtin:tiny").glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder

"""BailingMoE v1 (Ling-lite): Qwen3-MoE's experts with shared ones beside them, fused queries, keys and values, its own
names, and a head that is normalized over the vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ring_async.errors import ConfigError
from ring_async.training.megatron.names.llama import LlamaNames
from ring_async.training.megatron.names.qwen3_moe import Qwen3MoeNames
from ring_async.training.megatron.shape import DecoderShape, ExpertShape


class BailingMoeNames(Qwen3MoeNames):
    """See `LlamaNames`."""

    embedding = "model.word_embeddings.weight"
    attention = "attention."
    attention_output = "attention.dense.weight"

    def read(self, config: Any) -> DecoderShape:
        for bias in ("use_bias", "use_qkv_bias"):
            if getattr(config, bias, False):
                raise ConfigError(f"model.path: {config.model_type} with {bias} is not built for megatron")
        return dataclasses.replace(
            LlamaNames.read(self, config),
            normalizes_head=bool(getattr(config, "norm_head", False)),
            experts=ExpertShape(
                num_experts=config.num_experts,
                per_token=config.num_experts_per_tok,
                width=config.moe_intermediate_size,
                shared_width=config.moe_intermediate_size * (config.num_shared_experts or 0),
                renormalizes=config.norm_topk_prob,
            ),
            dense_layers=frozenset(range(config.first_k_dense_replace)),
        )

    def query_key_value(
        self, theirs: str, kind: str, rows: tuple[int, int], tail: tuple[int, ...]
    ) -> tuple[tuple[str, tuple[int, ...], int], ...]:
        """One tensor holds all queries, then all keys, then all values."""
        name, shape = f"{theirs}attention.query_key_value.{kind}", (rows[0] + 2 * rows[1], *tail)
        return ((name, shape, 0), (name, shape, rows[0]), (name, shape, rows[0] + rows[1]))

"""Attention over packed tokens inside Megatron-core's attention layer: rotary positions and the kernel.

Owns: the core attention that stands in for Megatron-core's, which knows no packed rows without Transformer Engine.
Does not own the kernels (`hf.varlen`, `hf.attention`, which both trainers use), nor projections and their split.

Positions are rotated here rather than by Megatron-core, whose rotation of packed rows reads lengths back from the GPU
twice a layer; queries and keys have been normalized by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from ring_async.training.hf import attention, varlen
from ring_async.training.hf.attention import AttentionBlocks
from ring_async.training.hf.head import elementwise
from ring_async.training.hf.varlen import PackedSequences


@dataclass
class PackedTokens(PackedSeqParams):
    """One forward's tokens, as every layer is given them.

    Attributes:
        cos, sin: `[U', 1, d_h]`, of each token's position, in the precision of the products.
        sequences: which tokens make up which sequences, as one of the two kernels takes it.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    sequences: AttentionBlocks | PackedSequences | None = None


class PackedAttention(torch.nn.Module):
    """Causal attention within each sequence. Megatron-core constructs it, and gives it what it gives its own."""

    def __init__(self, config: Any, layer_number: int, **_: Any) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.scaling = config.kv_channels**-0.5

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        packed_seq_params: PackedTokens,
        **_: Any,
    ) -> Tensor:
        """Attention of this rank's heads.

        Args:
            query: `[U', h, d_h]`, not rotated.
            key: `[U', h_kv, d_h]`, not rotated.
            value: `[U', h_kv, d_h]`.
            attention_mask: none.
            packed_seq_params: of the forward.

        Returns:
            `[U', h · d_h]`.
        """
        tokens = packed_seq_params
        query, key = rotated(query, tokens), rotated(key, tokens)
        query, key, value = (one.transpose(0, 1)[None] for one in (query, key, value))
        options: dict[str, Any] = {"scaling": self.scaling}
        if isinstance(tokens.sequences, PackedSequences):
            options |= tokens.sequences.arguments()
            output, _none = varlen.attend(self, query, key, value, attention_mask, **options)
        else:
            assert tokens.sequences is not None
            output, _none = attention.attend(
                self, query, key, value, attention_mask, blocks=tokens.sequences, **options
            )
        return output[0].flatten(1)


def rotated(heads: Tensor, tokens: PackedTokens) -> Tensor:
    """Heads `[U', h, d_h]`, turned by their tokens' positions: pairs are a half apart."""
    turned: Tensor = elementwise(_turned, heads.is_cuda)(heads, tokens.cos, tokens.sin)
    return turned


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-right, left), dim=-1) * sin

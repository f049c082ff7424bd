"""Attention over packed tokens: exact, without a mask, and without work on padding.

Owns: the attention function of the models in `hf.model`. Everything of a model but attention works token by token, so
tokens of many sequences lie in one flat row `[1, U]`. For attention alone they are gathered into blocks of
sequences of like length `[S, L]`, where plain causal attention is exact: padding lies behind every real token of its
sequence, and a causal query never looks behind itself. Sequences may share tokens (one prompt, K responses): a shared
token is gathered into every sequence that holds it, and computed once everywhere else.

A dense block-diagonal mask over a row of C tokens was rejected: it costs C² per row where Σ L² is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from ring_async.errors import ConfigError

IMPLEMENTATION = "ring_async_blocks"


@dataclass(frozen=True, slots=True)
class AttentionBlocks:
    """Which flat tokens make up which sequences.

    Attributes:
        gathers: int64 `[S, L]` each: flat token of every position of S sequences; padding repeats a sequence's first.
        scatter: int64 `[U]`: where in the blocks' outputs, joined and flattened, each flat token's own lies.
    """

    gathers: tuple[Tensor, ...]
    scatter: Tensor


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: AttentionBlocks,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence.

    Args:
        module: the attention layer.
        query: `[1, H, U, D]`.
        key: `[1, H_kv, U, D]`.
        value: `[1, H_kv, U, D]`.
        attention_mask: unused.
        blocks: the sequences.
        scaling: of the scores; None: 1/√D.
        sliding_window: of the layer, if it has one.
        others: features of other models; one that is set is refused, as leaving it out would be a wrong model.

    Returns:
        `[1, U, H, D]`, and no weights.
    """
    refuse_features(module, others)
    flat_query, flat_key, flat_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    grouped = flat_query.shape[1] != flat_key.shape[1]
    outputs = []
    for gather in blocks.gathers:
        num_sequences, length = gather.shape
        if sliding_window is not None and length > sliding_window:
            raise ConfigError(
                f"learner.engine hf cannot train {type(module).__name__} on sequences of {length} tokens: "
                f"its sliding window is {sliding_window}"
            )
        queries, keys, values = (
            flat.index_select(0, gather.reshape(-1)).view(num_sequences, length, *flat.shape[1:]).transpose(1, 2)
            for flat in (flat_query, flat_key, flat_value)
        )
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        outputs.append(attended.transpose(1, 2).reshape(num_sequences * length, *flat_query.shape[1:]))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.index_select(0, blocks.scatter)[None], None


def refuse_features(module: torch.nn.Module, others: dict[str, Any]) -> None:
    """Refuse what only some models ask of attention: leaving it out would be a wrong model.

    Raises:
        ConfigError: a feature is set that is unknown here.
    """
    for feature in ("softcap", "s_aux", "position_bias"):
        if others.get(feature) is not None:
            raise ConfigError(
                f"learner.engine hf cannot train {type(module).__name__}: it needs attention's {feature!r}"
            )


AttentionInterface.register(IMPLEMENTATION, attend)

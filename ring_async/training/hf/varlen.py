"""Attention over packed tokens on a GPU: one call of the variable-length kernel for all sequences of a forward.

Owns: `PackedSequences` (which flat tokens make up which sequences) and the attention function over them. The CPU has
`hf.attention`, which is faster there; the loop below stands in for the kernel so that this path can be tried anywhere.

A prompt that K responses share is computed once everywhere but here: its keys and values are gathered in front of each
response. Where no token is shared, nothing is gathered. Tokens behind the last sequence are padding, which a compiled
layer needs to see one shape; they get zeros.

The function stays out of compiled graphs (`torch.compiler.disable`): lengths differ from forward to forward, and a
graph that knew them would be compiled anew for each. Rejected: a custom operator, which would need a backward of the
kernel's private parts, which changed between torch 2.11 and 2.13.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from ring_async.errors import ConfigError
from ring_async.training.hf.attention import refuse_features
from ring_async.training.layout import Microbatch

IMPLEMENTATION = "ring_async_varlen"


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """The sequences of one forward.

    Attributes:
        gather: int64 `[L]`, the flat token at every place of the sequences laid end to end; None: they lie so already.
        scatter: int64 `[U]`, a place of each flat token; None likewise.
        starts: int32 `[S + 1]`, where each sequence begins, and the end.
        longest: tokens of the longest.
        num_tokens: U, the flat tokens that are not padding.
    """

    gather: Tensor | None
    scatter: Tensor | None
    starts: Tensor
    longest: int
    num_tokens: int

    @classmethod
    def of(cls, microbatch: Microbatch, device: torch.device) -> PackedSequences:
        """The sequences of a microbatch, on the device."""
        num_tokens = microbatch.input_ids.size
        starts = np.zeros(microbatch.lengths.size + 1, np.int32)
        np.cumsum(microbatch.lengths, out=starts[1:])
        gather = scatter = None
        if not np.array_equal(microbatch.members, np.arange(num_tokens)):
            place = np.zeros(num_tokens, np.int64)
            place[microbatch.members] = np.arange(microbatch.members.size)
            gather, scatter = (torch.from_numpy(array).to(device) for array in (microbatch.members, place))
        longest = int(microbatch.lengths.max(initial=0))
        return cls(gather, scatter, torch.from_numpy(starts).to(device), longest, num_tokens)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequences: PackedSequences,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence.

    Args:
        module: the attention layer.
        query: `[1, H, U', D]`, U' ≥ U with padding behind.
        key: `[1, H_kv, U', D]`.
        value: `[1, H_kv, U', D]`.
        attention_mask: unused.
        sequences: of the forward.
        scaling: of the scores; None: 1/√D.
        sliding_window: of the layer, if it has one.
        others: features of other models; one that is set is refused.

    Returns:
        `[1, U', H, D]`, and no weights.
    """
    del attention_mask
    refuse_features(module, others)
    return _attend(query, key, value, sequences, scaling, sliding_window), None


@torch.compiler.disable
def _attend(  # noqa: PLR0917 - the boundary of a compiled graph passes positions
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: PackedSequences,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    num_padded = query.shape[2] - sequences.num_tokens
    queries, keys, values = (tensor[0].transpose(0, 1)[: sequences.num_tokens] for tensor in (query, key, value))
    if sequences.gather is not None:
        queries, keys, values = (one.index_select(0, sequences.gather) for one in (queries, keys, values))
    kernel = _varlen_kernel if query.is_cuda else _loop
    attended = kernel(queries, keys, values, sequences, scaling, -1 if sliding_window is None else sliding_window - 1)
    if sequences.scatter is not None:
        attended = attended.index_select(0, sequences.scatter)
    return torch.nn.functional.pad(attended, (0, 0, 0, 0, 0, num_padded))[None]


def _varlen_kernel(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences, scaling: float | None, behind: int
) -> Tensor:
    kernel, has_gqa = _kernel()
    options: dict[str, Any] = {"scale": scaling, "window_size": (behind, 0)}
    if has_gqa:
        options["enable_gqa"] = True
    elif (share := query.shape[1] // key.shape[1]) > 1:
        key, value = (tensor.repeat_interleave(share, dim=1) for tensor in (key, value))
    starts, longest = sequences.starts, sequences.longest
    attended: Tensor = kernel(query, key.contiguous(), value.contiguous(), starts, starts, longest, longest, **options)
    return attended


@cache
def _kernel() -> tuple[Any, bool]:
    """The kernel of torch, and whether it takes fewer heads for keys than for queries (from 2.13 on).

    Raises:
        ConfigError: this torch has none.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise ConfigError(f"learner.engine_options.attention varlen needs torch 2.11 or later: {error}") from error
    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


def _loop(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences, scaling: float | None, behind: int
) -> Tensor:
    """The kernel's result, sequence by sequence, where there is no GPU."""
    parts = []
    for start, end in zip(sequences.starts[:-1].tolist(), sequences.starts[1:].tolist(), strict=True):
        queries, keys, values = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= 0) & ((distance <= behind) | (behind < 0))
        part = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


AttentionInterface.register(IMPLEMENTATION, attend)

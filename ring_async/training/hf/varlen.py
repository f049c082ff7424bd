"""Attention over packed tokens on a GPU: one call of the variable-length kernel for all sequences of a forward.

Owns: `PackedSequences` (which flat tokens make up which sequences) and the attention function over them. The CPU has
`hf.attention`, which is faster there; the loop below stands in for the kernel so that this path can be tried anywhere.

A prompt that K responses share is computed once everywhere but here: its keys and values are gathered in front of each
response. Where no token is shared, nothing is gathered. Tokens behind the last sequence are padding, a sequence of its
own.

The kernel is part of a compiled layer. What it is given are plain arguments, whose sizes torch.compile takes for
variable once they have changed: torch looks into an object that a graph is given, and would compile a layer anew for
every number of sequences.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from ring_async.errors import ConfigError
from ring_async.training.batch_tensors import to_device
from ring_async.training.hf.attention import refuse_features
from ring_async.training.layout import Microbatch

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    _KERNEL: Any = None
else:
    _KERNEL = varlen_attn
# Whether the kernel takes fewer heads for keys than for queries (from torch 2.13 on).
_HAS_GQA = _KERNEL is not None and "enable_gqa" in inspect.signature(_KERNEL).parameters

IMPLEMENTATION = "ring_async_varlen"


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """The sequences of one forward.

    Attributes:
        gather: int64 `[L]`, the flat token at every place of the sequences laid end to end; None: they lie so already.
        scatter: int64 `[U]`, a place of each flat token; None likewise.
        starts: int32 `[S + 1]`, where each sequence begins, and the end.
        longest: tokens of the longest.
    """

    gather: Tensor | None
    scatter: Tensor | None
    starts: Tensor
    longest: int

    @classmethod
    def of(cls, microbatch: Microbatch, device: torch.device, num_padded: int = 0) -> PackedSequences:
        """The sequences of a microbatch, on the device.

        Args:
            microbatch: what is computed.
            device: where.
            num_padded: tokens of padding behind it.
        """
        num_tokens = microbatch.input_ids.size
        lengths, members = microbatch.lengths, microbatch.members
        if num_padded:
            lengths = np.append(lengths, num_padded)
            members = np.concatenate([members, np.arange(num_tokens, num_tokens + num_padded)])
        starts = np.zeros(lengths.size + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        gather = scatter = None
        if not np.array_equal(members, np.arange(num_tokens + num_padded)):
            place = np.zeros(num_tokens + num_padded, np.int64)
            place[members] = np.arange(members.size)
            gather, scatter = to_device(members, device), to_device(place, device)
        return cls(gather, scatter, to_device(starts, device), int(lengths.max(initial=0)))

    def arguments(self) -> dict[str, Any]:
        """What `attend` takes beside the states."""
        return {"starts": self.starts, "longest": self.longest, "gather": self.gather, "scatter": self.scatter}


def refuse_missing_kernel() -> None:
    """Raises:
    ConfigError: this torch has no kernel for a GPU.
    """
    if _KERNEL is None:
        raise ConfigError(
            f"learner.engine_options.attention varlen needs torch 2.11 or later on a GPU; this is {torch.__version__}"
        )


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    starts: Tensor,
    longest: int,
    gather: Tensor | None = None,
    scatter: Tensor | None = None,
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
        starts: see `PackedSequences`, as `longest`, `gather` and `scatter`.
        longest: likewise.
        gather: likewise.
        scatter: likewise.
        scaling: of the scores; None: 1/√D.
        sliding_window: of the layer, if it has one.
        others: features of other models; one that is set is refused.

    Returns:
        `[1, U, H, D]`, and no weights.
    """
    del attention_mask
    refuse_features(module, others)
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if gather is not None:
        queries, keys, values = (one.index_select(0, gather) for one in (queries, keys, values))
    kernel = _varlen_kernel if query.is_cuda else _loop
    behind = -1 if sliding_window is None else sliding_window - 1
    attended = kernel(queries, keys, values, starts, longest, scaling, behind)
    if scatter is not None:
        attended = attended.index_select(0, scatter)
    return attended[None], None


def _varlen_kernel(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None, behind: int
) -> Tensor:
    options: dict[str, Any] = {"scale": scaling, "window_size": (behind, 0)}
    if _HAS_GQA:
        options["enable_gqa"] = True
    elif (share := query.shape[1] // key.shape[1]) > 1:
        key, value = (tensor.repeat_interleave(share, dim=1) for tensor in (key, value))
    # The kernel's result lies as a contiguous query does, whatever this one's strides.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    attended: Tensor = _KERNEL(query, key, value, starts, starts, longest, longest, **options)
    return attended


@torch.compiler.disable
def _loop(  # noqa: PLR0917
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None, behind: int
) -> Tensor:
    """The kernel's result, sequence by sequence, where there is no GPU."""
    del longest
    parts = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        queries, keys, values = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= 0) & ((distance <= behind) | (behind < 0))
        part = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


AttentionInterface.register(IMPLEMENTATION, attend)

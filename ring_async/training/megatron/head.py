"""The language-model head where tensor ranks hold a part of the vocabulary each.

Owns: log-probability and entropy from logits that no rank has all of, and their gradients. Does not own the products
and elementwise passes (`hf.head`), whose formulas hold here with sums over ranks:

    normalizer = log Σ_ranks Σ_v exp(logits);   entropy H = normalizer − Σ_ranks Σ_v p_v · logits_v

Megatron-core's own cross-entropy overwrites the logits that it is given, has no entropy, and holds `[T, V]`.

Invariants: no rank holds more than `chunk_tokens × V / ranks` logits at a time, in float32, in forward and in backward;
the gradient of the hidden states is this rank's part of a sum over tensor ranks, which the caller adds up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ring_async.training.hf.head import (
    CHUNK_TOKENS,
    elementwise,
    gradients_in_chunks,
    keep_for_backward,
    score_in_chunks,
)


def score_over_ranks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperatures: Tensor,
    group: dist.ProcessGroup,
    *,
    first_row: int,
    entropy_grad: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and entropy, as `algorithms.logprobs.score_tokens` defines them.

    Args:
        hidden: `[T, d]`, the same on all ranks of the group.
        weight: `[V_r, d]`, this rank's rows of the head.
        targets: int64 `[T]`, of the whole vocabulary.
        temperatures: float32 `[T]`.
        group: the tensor ranks.
        first_row: the row of the whole head at which `weight` begins.
        entropy_grad: whether the entropy carries a gradient.
        chunk_tokens: tokens of one chunk.

    Returns:
        `[T]` and `[T]`, float32 (float64 for float64 inputs), nats; the same on all ranks.
    """
    if group.size() == 1:
        options: dict[str, Any] = {"entropy_grad": entropy_grad, "chunk_tokens": chunk_tokens}
        return score_in_chunks(hidden, weight, targets, temperatures, **options)
    logprobs, entropy = _Head.apply(hidden, weight, targets, temperatures, group, first_row, entropy_grad, chunk_tokens)
    return logprobs, entropy


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positions
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperatures: Tensor,
        group: dist.ProcessGroup,
        first_row: int,
        entropy_grad: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        def statistics(logits: Tensor, own: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return _statistics(logits, own, temperatures, group)

        own = targets - first_row
        return keep_for_backward(ctx, hidden, weight, own, temperatures, statistics, entropy_grad, chunk_tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients_in_chunks(ctx, *grads), *[None] * 6


def _statistics(
    logits: Tensor, targets: Tensor, temperatures: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizer, log-probability and entropy of a chunk. `[c]` each.

    Args:
        logits: `[c, V_r]`, of this rank's rows, before the temperature.
        targets: int64 `[c]`, counted from this rank's first row; outside of its rows where another rank has it.
        temperatures: float32 `[c]`.
        group: the tensor ranks.
    """
    highest = logits.amax(-1) / temperatures
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    sums = elementwise(_sums, logits.is_cuda)(logits, temperatures, highest, *_own_targets(targets, logits.shape[1]))
    dist.all_reduce(sums, group=group)
    total, weighted, at_target = sums
    log_total = total.log()
    return log_total + highest, at_target - log_total, log_total - weighted / total


def _sums(logits: Tensor, temperatures: Tensor, highest: Tensor, own: Tensor, is_own: Tensor) -> Tensor:
    """This rank's terms of the sums over the vocabulary: Σ exp, Σ exp · logit, the target's logit. `[3, c]`."""
    shifted = logits / temperatures[:, None] - highest[:, None]
    weights = shifted.exp()
    at_target = torch.where(is_own, shifted.gather(1, own[:, None])[:, 0], 0.0)
    return torch.stack([weights.sum(-1), (weights * shifted).sum(-1), at_target])


def _own_targets(targets: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Targets as rows of this rank's part, 0 where another rank has them; and whether this one has."""
    is_own = (targets >= 0) & (targets < num_rows)
    return torch.where(is_own, targets, 0), is_own

"""The language-model head on a GPU: log-probabilities and entropy, with bfloat16 products summed and kept in float32.

Owns: the forward and backward of the head in chunks. Does not own the float32 head (`algorithms.logprobs`), which the
CPU uses and this is tested against.

    logits = hidden · weightᵀ / temperature;   lse = log Σ exp(logits);   p = exp(logits − lse)
    log-probability = logits[target] − lse;    entropy H = lse − Σ p · logits
    d log-probability / d logits_i = [i = target] − p_i;    d H / d logits_i = −p_i (log p_i + H)

The products of a GPU's tensor cores take bfloat16 and add in float32; here they hand out the float32 sums. Rounding the
logits to bfloat16, as `linear` would, moves a log-probability by up to 0.06 at a logit of 20, and the ratios of the
objective are differences of these numbers.

Invariants: no more than `chunk_tokens × V` logits exist at a time, in forward and in backward, which makes them again;
the gradient of the weight is summed over chunks in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 8192
"""Tokens of one chunk: 5 GB of float32 logits at a vocabulary of 152,000, and half as much of their gradient. Each
chunk reads and writes the gradient of the weight, 2.5 GB."""


def score_in_chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperatures: Tensor,
    *,
    entropy_grad: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and entropy, as `algorithms.logprobs.score_tokens` defines them.

    Args:
        hidden: `[T, d]`.
        weight: `[V, d]`, of the same dtype.
        targets: int64 `[T]`.
        temperatures: float32 `[T]`.
        entropy_grad: whether the entropy carries a gradient.
        chunk_tokens: tokens of one chunk.

    Returns:
        `[T]` and `[T]`, float32 (float64 for float64 inputs), nats.
    """
    logprobs, entropy = _Head.apply(hidden, weight, targets, temperatures, entropy_grad, chunk_tokens)
    return logprobs, entropy


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positions
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperatures: Tensor,
        entropy_grad: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        return keep_for_backward(
            ctx, hidden, weight, targets, temperatures, _statistics_of_all, entropy_grad, chunk_tokens
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients_in_chunks(ctx, *grads), None, None, None, None


def keep_for_backward(  # noqa: PLR0917 - as autograd passes them
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperatures: Tensor,
    statistics: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    entropy_grad: bool,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """The forward of a head in chunks: log-probability and entropy `[T]`; keeps in `ctx` what the backward needs.

    Args:
        ctx: of the autograd function.
        hidden: `[T, d]`.
        weight: `[V, d]`, or this rank's rows of it.
        targets: int64 `[T]`, counted from the first of these rows.
        temperatures: float32 `[T]`.
        statistics: normalizer, log-probability and entropy of a chunk's logits, targets and temperatures.
        entropy_grad: whether the entropy carries a gradient.
        chunk_tokens: tokens of one chunk.
    """
    gathered: tuple[list[Tensor], ...] = ([], [], [])
    for part in chunks(hidden.shape[0], chunk_tokens):
        found = statistics(product(hidden[part], weight.t()), targets[part], temperatures[part])
        for parts, values in zip(gathered, found, strict=True):
            parts.append(values)
    normalizer, logprob, entropy = (torch.cat(parts) for parts in gathered)
    ctx.save_for_backward(hidden, weight, targets, temperatures, normalizer, entropy)
    ctx.chunk_tokens, ctx.entropy_grad = chunk_tokens, entropy_grad
    if not entropy_grad:
        ctx.mark_non_differentiable(entropy)
    return logprob, entropy


def gradients_in_chunks(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
    """The backward of what `keep_for_backward` computed: the gradients of `hidden` and of `weight`."""
    hidden, weight, targets, temperatures, normalizer, entropy = ctx.saved_tensors
    grad_logprob = grads[0]
    grad_entropy = grads[1] if ctx.entropy_grad else torch.zeros_like(grad_logprob)
    grad_hidden = torch.empty_like(hidden)
    grad_weight = torch.zeros(weight.shape, dtype=grad_logprob.dtype, device=weight.device)
    for part in chunks(hidden.shape[0], ctx.chunk_tokens):
        logits = product(hidden[part], weight.t())
        grad_logits = elementwise(_gradient_of_logits, logits.is_cuda)(
            logits,
            targets[part],
            temperatures[part],
            normalizer[part],
            entropy[part],
            grad_logprob[part],
            grad_entropy[part],
            hidden.dtype,
        )
        del logits
        grad_hidden[part] = grad_logits @ weight
        grad_weight += product(grad_logits.t(), hidden[part])
    return grad_hidden, grad_weight.to(weight.dtype)


def _statistics_of_all(logits: Tensor, targets: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = elementwise(_statistics, logits.is_cuda)(logits, targets, temperatures)
    return found


def _statistics(logits: Tensor, targets: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizer, log-probability and entropy of a chunk, from logits before the temperature. `[c]` each."""
    logits = logits / temperatures[:, None]
    largest = logits.max(-1).values
    # Both sums in one pass; a normalizer that came first would make them two.
    weights = (logits - largest[:, None]).exp()
    total, weighted = weights.sum(-1), (weights * logits).sum(-1)
    normalizer = largest + total.log()
    return normalizer, logits.gather(1, targets[:, None])[:, 0] - normalizer, normalizer - weighted / total


def _gradient_of_logits(  # noqa: PLR0917
    logits: Tensor,
    targets: Tensor,
    temperatures: Tensor,
    normalizer: Tensor,
    entropy: Tensor,
    grad_logprob: Tensor,
    grad_entropy: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The gradient of the logits before the temperature, `[c, V]`, in the dtype of the product that it goes into.

    A target outside of the rows of `logits` adds nothing: another rank has it.
    """
    logprobs = logits / temperatures[:, None] - normalizer[:, None]
    slope = grad_logprob[:, None] + grad_entropy[:, None] * (logprobs + entropy[:, None])
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    at_target = torch.where(is_target, grad_logprob[:, None], 0.0)
    return ((at_target - logprobs.exp() * slope) / temperatures[:, None]).to(dtype)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def elementwise(function: Any, is_compiled: bool) -> Any:
    """On a GPU the passes over `[c, V]` are fused into one; one by one they would cost half as much as the products."""
    return _compiled(function) if is_compiled else function


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left · right` summed and handed out in float32 (float64 for float64)."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    wide = torch.promote_types(left.dtype, torch.float32)
    return left.to(wide) @ right.to(wide)


def chunks(num_tokens: int, chunk_tokens: int) -> list[slice]:
    """Cuts of the tokens; one empty cut where there are none."""
    starts = range(0, max(1, num_tokens), chunk_tokens)
    return [slice(start, min(num_tokens, start + chunk_tokens)) for start in starts]

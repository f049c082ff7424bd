"""Log-probabilities of sampled tokens, from hidden states, and bounded ratios of them.

Owns: the language-model head in float32, the temperature, the log-softmax, and the ±20 bound on log ratios. Does not
own what ratios mean (`corrections`). Invariant: a ratio is only ever made by `bounded_ratio`, so no exponential
overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ring_async.algorithms.entropy import entropy_of

MAX_LOG_RATIO = 20.0
"""Log ratios are bounded to ± this before exp: e^20 is about 4.9e8, far outside of every rule's band."""

MAX_LOGIT_ELEMENTS = 1 << 26
"""Tokens × vocabulary of one head product (256 MiB of float32). Larger ones are cut, and recomputed in backward."""


def bounded_log_ratio(numerator_logprobs: Tensor, denominator_logprobs: Tensor) -> Tensor:
    """The log ratio log(numerator / denominator), bounded to ±`MAX_LOG_RATIO`. `[T]`, nats."""
    return (numerator_logprobs - denominator_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def bounded_ratio(numerator_logprobs: Tensor, denominator_logprobs: Tensor) -> Tensor:
    """The ratio numerator / denominator, from the bounded log ratio. `[T]`."""
    return bounded_log_ratio(numerator_logprobs, denominator_logprobs).exp()


def _score(  # noqa: PLR0917 - `checkpoint` passes positions
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperatures: Tensor, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperatures[:, None]
    all_logprobs = logits.log_softmax(dim=-1)
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        entropy = entropy_of(all_logprobs)
    return all_logprobs.gather(1, targets[:, None]).squeeze(1), entropy


def score_tokens(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperatures: Tensor,
    *,
    entropy_grad: bool = False,
    max_elements: int = MAX_LOGIT_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token, and entropy of the distribution it came from.

    The head runs in float32 (float64 stays float64) whatever the model's dtype: ratios of policies are differences of
    these numbers, and half precision there is what drives engine and learner apart (ScaleRL, arXiv 2510.13786).

    Args:
        hidden: `[T, d]`, the hidden state one position before each target.
        weight: `[V, d]`, the head's matrix.
        bias: `[V]` or None.
        targets: int64 `[T]`.
        temperatures: `[T]`, of each target's sampling; logits are divided by it.
        entropy_grad: whether the entropy carries a gradient (an entropy bonus is wanted).
        max_elements: largest T × V held at once; above, the work is cut and recomputed in backward.

    Returns:
        `policy_logprobs` `[T]` and `entropy` `[T]`, both in nats, of the tempered distribution.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    hidden, weight, temperatures = hidden.to(dtype), weight.to(dtype), temperatures.to(dtype)
    bias = bias.to(dtype) if bias is not None else None
    chunk = max(1, max_elements // weight.shape[0])
    if hidden.shape[0] <= chunk:
        return _score(hidden, weight, bias, targets, temperatures, entropy_grad)
    parts = [
        checkpoint(
            _score,
            hidden[start : start + chunk],
            weight,
            bias,
            targets[start : start + chunk],
            temperatures[start : start + chunk],
            entropy_grad,
            use_reentrant=False,
        )
        for start in range(0, hidden.shape[0], chunk)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

"""The losses of one microbatch over a constant divisor: the policy gradient's, and cross-entropy.

Owns: C3PO's sum (Ring-lite, arXiv 2506.14731 §3.2, Eq. 2):

    loss = −(1/divisor) Σ_{loss tokens} (surrogate − kl_coefficient·kl + entropy_coefficient·entropy)

Invariant: `divisor` is a constant of the batch (Φ, or Φ/M for one of M optimizer steps), whatever was masked and over
however many microbatches, rows or ranks the tokens are spread; so losses and gradients of parts **add up** to those of
the whole, and a mean over R data-parallel ranks must be multiplied by R.

Differs: the paper prints +α_ent·H in a loss that is minimized, and writes that entropy is encouraged; it is subtracted
here. Masked tokens still count in the divisor, as |Ψ| = Φ is fixed before any token is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_async.algorithms.corrections import Corrected, TokenBatch
from ring_async.algorithms.kl import kl_estimate
from ring_async.config.learning import LossSection


@dataclass(frozen=True, slots=True)
class Loss:
    """One microbatch's share of the loss.

    Attributes:
        total: scalar, with gradient.
        kl: `[T]` estimate of KL(π_θ ‖ π_ref) per token, no gradient; None without reference weights.
    """

    total: Tensor
    kl: Tensor | None


def batch_loss(
    tokens: TokenBatch,
    corrected: Corrected,
    entropy: Tensor,
    reference_logprobs: Tensor | None,
    *,
    settings: LossSection,
    divisor: float,
) -> Loss:
    """This microbatch's share of the batch's loss.

    The correction's mask does not apply to the KL penalty and the entropy bonus, which act on every finite loss token.

    Args:
        tokens: the microbatch.
        corrected: the correction rule's result for the microbatch.
        entropy: `[T]`, nats; with gradient where `settings.entropy_coefficient` > 0.
        reference_logprobs: log π_ref `[T]`, or None.
        settings: coefficients.
        divisor: Φ, or Φ/M.
    """
    objective = corrected.surrogate
    kl = None
    if reference_logprobs is not None:
        is_counted = corrected.is_used & reference_logprobs.isfinite()
        policy, reference, behavior = (
            torch.where(is_counted, values, 0.0)
            for values in (tokens.policy_logprobs, reference_logprobs, tokens.behavior_logprobs)
        )
        penalty = kl_estimate(policy, reference, behavior, settings.kl_estimator)
        objective = objective - settings.kl_coefficient * torch.where(is_counted, penalty, 0.0)
        kl = penalty.detach()
    if settings.entropy_coefficient > 0:
        is_counted = corrected.is_used & entropy.isfinite()
        objective = objective + settings.entropy_coefficient * torch.where(is_counted, entropy, 0.0)
    return Loss(total=-objective.sum() / divisor, kl=kl)


def cross_entropy_loss(policy_logprobs: Tensor, is_loss: Tensor, divisor: float) -> Tensor:
    """This microbatch's share of the supervised loss: −(1/divisor) Σ_{loss tokens} log π_θ. Scalar, nats per token.

    Args:
        policy_logprobs: log π_θ, any shape, with gradient.
        is_loss: bool, of the same shape.
        divisor: number of loss tokens of the whole optimizer step.
    """
    return -policy_logprobs[is_loss].sum() / divisor

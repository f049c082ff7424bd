"""Estimators of the divergence between the policy and frozen reference weights, from sampled tokens.

Owns: the formulas. Sources: J. Schulman, "Approximating KL divergence" (k1, k2, k3); arXiv 2512.21852 (which estimators
are valid as a loss).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ring_async.algorithms.logprobs import bounded_log_ratio, bounded_ratio

KLEstimator = Literal["k1", "k2", "k3", "k3_weighted"]

MAX_KL_WEIGHT = 5.0
"""Upper bound of r in `k3_weighted`: beyond it one stale token would rule the batch's penalty."""


def _k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    log_ratio = bounded_log_ratio(reference_logprobs, policy_logprobs)
    return log_ratio.exp() - 1 - log_ratio


_ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1": lambda policy, reference, _behavior: bounded_log_ratio(policy, reference),
    "k2": lambda policy, reference, _behavior: bounded_log_ratio(policy, reference).square() / 2,
    "k3": lambda policy, reference, _behavior: _k3(policy, reference),
    "k3_weighted": lambda policy, reference, behavior: (
        bounded_ratio(policy, behavior).clamp(max=MAX_KL_WEIGHT) * _k3(policy, reference)
    ),
}


def kl_estimate(
    policy_logprobs: Tensor, reference_logprobs: Tensor, behavior_logprobs: Tensor, estimator: KLEstimator
) -> Tensor:
    """Estimate KL(π_θ ‖ π_ref) at every sampled token. `[T]`, nats.

    With l = `reference_logprobs − policy_logprobs`:

    * `k1` = −l. Unbiased as a number; as a loss its expected gradient on-policy is 0.
    * `k2` = l²/2. Biased as a number; its gradient on-policy is the reverse KL's.
    * `k3` = e^l − 1 − l. Unbiased and ≥ 0 as a number; as a loss its gradient on-policy is the *forward* KL's.
    * `k3_weighted` = r·k3 with r = `total_ratio` = exp(`policy_logprobs − behavior_logprobs`), **not detached**. As
      E_μ[r·k3] = E_π[k3] = KL for every π_θ, its gradient is the reverse KL's, also off-policy, up to the bound on r.

    Differs: r is bounded above by `MAX_KL_WEIGHT` (no gradient through r beyond it).
    """
    return _ESTIMATORS[estimator](policy_logprobs, reference_logprobs, behavior_logprobs)

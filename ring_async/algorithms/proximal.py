"""The proximal policy without a forward pass: an interpolation between behavior and policy.

Owns: `correction.proximal: loglinear`. Does not own `recompute`, a forward pass of the train engine.
"""

from __future__ import annotations

import torch
from torch import Tensor


def loglinear_proximal(
    policy_logprobs: Tensor,
    behavior_logprobs: Tensor,
    token_staleness: Tensor,
    versions_ahead: float,
    mismatch_log_ratio: Tensor | float = 0.0,
) -> Tensor:
    """Interpolate: log π_prox ≈ log μ' + a·(sg(log π_θ) − log μ'), a = (v_prox − v_μ) / (v_θ − v_μ) in [0, 1].

    The line runs between versions of one program, the learner: log μ' = log μ + log k is what the learner would have
    said of the token at the version that sampled it, k the mismatch of the two. With k = 1 the line begins at the
    engine's own number: a token of staleness 0 shows no mismatch then, however large, after the batch's first optimizer
    step.

    Differs: AReaL interpolates from μ itself.

    Args:
        policy_logprobs: `[T]`; used without its gradient.
        behavior_logprobs: `[T]`.
        token_staleness: int `[T]`, v_prox − v_μ, in versions.
        versions_ahead: v_θ − v_prox, in versions: the share of the batch's optimizer steps already taken (0 before the
            first, as one batch makes one version).
        mismatch_log_ratio: `[T]`, estimate of log k (`mismatch`).

    Returns:
        `[T]`, no gradient. Where v_θ = v_μ, sg(log π_θ): there is nothing to interpolate.
    """
    policy = policy_logprobs.detach()
    staleness = token_staleness.to(policy.dtype).clamp(min=0)
    age = staleness + versions_ahead
    share = torch.where(age > 0, staleness / age.clamp(min=1e-12), torch.ones_like(age))
    # This form is exact at both ends; behavior + share · (policy − behavior) is not.
    return torch.lerp(behavior_logprobs + mismatch_log_ratio, policy, share)

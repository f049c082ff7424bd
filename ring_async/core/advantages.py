"""What the estimator makes of a group's rewards.

Owns: the estimators, the treatment of truncated responses, and the detection of groups without a signal. Numpy and
pure, so that the replay process needs no torch. Computed over the whole group of K, before any selection.
Source: algorithm.md §3.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ring_async.types import Float32, GroupHeader

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Estimator = Literal["grpo", "dr_grpo", "rloo", "batch_std"]

STD_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class AdvantageRules:
    """Settings of the estimator; see `AdvantageSection` of the configuration for their meaning."""

    estimator: Estimator = "grpo"
    no_signal_tolerance: float = 1e-6
    truncated: Literal["zero", "mask", "soft"] = "zero"
    soft_cache_tokens: int = 32
    masked_in_mean: bool = True


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """One advantage per trajectory.

    Attributes:
        advantages: float32 `[K]`, 0 where masked.
        is_masked: bool `[K]`, responses that leave before selection.
        has_signal: False when the group teaches nothing and is dropped.
    """

    advantages: Float32
    is_masked: Bool
    has_signal: bool


@dataclass(slots=True)
class RewardSpread:
    """Standard deviation of rewards around their group's mean, over the last `max_groups` groups.

    `batch_std` divides by it. A group's divisor is frozen when it is scored, before any selection, so that what the
    learner happens to choose never changes an advantage.
    """

    max_groups: int = 64
    _squares: deque[float] = field(default_factory=deque)

    def include(self, deviations: Float64) -> float:
        """Take in one group's deviations from its mean, `[K]`; returns the spread with it (ddof 0)."""
        self._squares.append(float(np.mean(np.square(deviations))))
        if len(self._squares) > self.max_groups:
            self._squares.popleft()
        return float(np.sqrt(np.mean(self._squares)))


def shape_rewards(
    rewards: Float64, num_tokens: npt.NDArray[np.int64], is_truncated: Bool, max_tokens: int, rules: AdvantageRules
) -> Float64:
    """Rewards after the treatment of truncated responses, float64 `[K]`.

    zero: a response that hit the limit earns nothing, `min(reward, 0)`. mask: unchanged. soft: every response pays
    `(max_tokens − L_cache − num_tokens) / L_cache`, between 0 and −1, for its last L_cache tokens before the limit
    (DAPO, arXiv 2503.14476, Eq. 13).
    """
    if rules.truncated == "zero":
        return np.where(is_truncated, np.minimum(rewards, 0.0), rewards)
    if rules.truncated == "soft":
        over = num_tokens - (max_tokens - rules.soft_cache_tokens)
        return rewards - np.clip(over / rules.soft_cache_tokens, 0.0, 1.0)
    return rewards


def group_advantages(header: GroupHeader, rules: AdvantageRules, spread: RewardSpread | None = None) -> GroupAdvantages:
    """Advantages of a scored group.

    With mean and std over the K responses (those not masked, unless `masked_in_mean`), ddof 0:
    grpo `(R − mean) / (std + 1e-6)`; dr_grpo `R − mean`; rloo `K/(K−1) · (R − mean)`, the mean of the others as
    baseline; batch_std `(R − mean) / (spread + 1e-6)`.

    Every trajectory must have a reward; `spread` is for `batch_std` and takes this group in.

    Raises:
        ValueError: a reward is missing or not finite.
    """
    trajectories = header.trajectories
    rewards = np.array([np.nan if t.reward is None else t.reward for t in trajectories], np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError(f"group {header.group_id}: a reward is missing or not finite: {rewards.tolist()}")
    num_tokens = np.array([t.num_tokens for t in trajectories], np.int64)
    is_truncated = np.array([t.finish_reason == "length" for t in trajectories], np.bool_)
    rewards = shape_rewards(rewards, num_tokens, is_truncated, header.sampling.max_tokens, rules)
    is_masked = is_truncated if rules.truncated == "mask" else np.zeros_like(is_truncated)
    counted = rewards if rules.masked_in_mean else rewards[~is_masked]
    if counted.size < 2 or is_masked.all() or np.ptp(counted) <= rules.no_signal_tolerance:
        return GroupAdvantages(np.zeros(rewards.size, np.float32), is_masked, has_signal=False)
    deviations = rewards - counted.mean()
    if rules.estimator == "grpo":
        deviations = deviations / (counted.std() + STD_EPSILON)
    elif rules.estimator == "rloo":
        deviations = deviations * (counted.size / (counted.size - 1))
    elif rules.estimator == "batch_std":
        scale = (spread or RewardSpread()).include(counted - counted.mean())
        deviations = deviations / (scale + STD_EPSILON)
    return GroupAdvantages(np.where(is_masked, 0.0, deviations).astype(np.float32), is_masked, has_signal=True)

"""Advantages: the estimators that turn a group's rewards into advantages.

Owns: the estimators, the treatment of truncated responses, and the detection of groups without a signal. Advantages are
computed over the whole group of K, before any selection. They are plain floats: for K of about ten an array call costs
more than the sum, and replay does this for every group; nor does the replay process need torch.
Source: docs/algorithm.md, "The loss".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ring_async.types import GroupHeader

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


class GroupAdvantages(msgspec.Struct, frozen=True):
    """One advantage per trajectory.

    Attributes:
        advantages: `[K]`, 0 where masked.
        is_masked: `[K]`, truncated responses that leave before selection.
        has_signal: False when the group teaches nothing and is dropped.
    """

    advantages: tuple[float, ...]
    is_masked: tuple[bool, ...]
    has_signal: bool


@dataclass(slots=True)
class RewardSpread:
    """Standard deviation of rewards around their group's mean, over the last `max_groups` groups.

    `batch_std` divides by it. A group's divisor is frozen when it is scored, before any selection, so that what the
    learner happens to choose never changes an advantage.
    """

    max_groups: int = 64
    _variances: deque[float] = field(default_factory=deque)

    def include(self, variance: float) -> float:
        """Add one group's variance (ddof 0); returns the spread with this group included."""
        self._variances.append(variance)
        if len(self._variances) > self.max_groups:
            self._variances.popleft()
        return math.sqrt(sum(self._variances) / len(self._variances))


def shaped_reward(
    reward: float, num_tokens: int, max_tokens: int, rules: AdvantageRules, *, is_truncated: bool
) -> float:
    """A reward after the treatment of truncated responses.

    zero: a response that hit the limit earns nothing, `min(reward, 0)`. mask: unchanged. soft: every response pays
    `(max_tokens − L_cache − num_tokens) / L_cache`, between 0 and −1, for its last L_cache tokens before the limit
    (DAPO, arXiv 2503.14476, Eq. 13).
    """
    if rules.truncated == "zero" and is_truncated:
        return min(reward, 0.0)
    if rules.truncated == "soft":
        over = (num_tokens - (max_tokens - rules.soft_cache_tokens)) / rules.soft_cache_tokens
        return reward - min(max(over, 0.0), 1.0)
    return reward


def group_advantages(header: GroupHeader, rules: AdvantageRules, spread: RewardSpread | None = None) -> GroupAdvantages:
    """Advantages of a scored group.

    With mean and std over the K responses (those not masked, unless `masked_in_mean`), ddof 0:
    grpo `(R − mean) / (std + 1e-6)`; dr_grpo `R − mean`; rloo `K/(K−1) · (R − mean)`, the mean of the others as
    baseline; batch_std `(R − mean) / (spread + 1e-6)`.

    Every trajectory must have a reward, or the reason why it could not be judged: then its advantage is 0, and the
    others' are those of the group without it. `spread` is for `batch_std` and takes this group in.

    Raises:
        ValueError: a reward is missing or not finite.
    """
    judged = [not one.failure for one in header.trajectories]
    if False in judged:
        return _without_unjudged(header, judged, rules, spread)
    given = header.rewards
    if None in given or not all(map(math.isfinite, given)):  # type: ignore[arg-type]
        raise ValueError(f"group {header.group_id}: a reward is missing or not finite: {list(given)}")
    is_truncated = [one.finish_reason == "length" for one in header.trajectories]
    rewards = list(map(float, given))  # type: ignore[arg-type]
    if rules.truncated == "soft" or True in is_truncated:
        max_tokens = header.sampling.max_tokens
        rewards = [
            shaped_reward(reward, one.num_tokens, max_tokens, rules, is_truncated=truncated)
            for reward, one, truncated in zip(rewards, header.trajectories, is_truncated, strict=True)
        ]
    is_masked = tuple(is_truncated) if rules.truncated == "mask" else (False,) * len(rewards)
    counted = rewards
    if True in is_masked and not rules.masked_in_mean:
        counted = [reward for reward, masked in zip(rewards, is_masked, strict=True) if not masked]
    if len(counted) < 2 or False not in is_masked or max(counted) - min(counted) <= rules.no_signal_tolerance:
        return GroupAdvantages((0.0,) * len(rewards), is_masked, has_signal=False)
    mean = sum(counted) / len(counted)
    scale = _scale(rules.estimator, counted, mean, spread)
    advantages = [(reward - mean) * scale for reward in rewards]
    if True in is_masked:
        advantages = [0.0 if masked else one for one, masked in zip(advantages, is_masked, strict=True)]
    return GroupAdvantages(tuple(advantages), is_masked, has_signal=True)


def _without_unjudged(
    header: GroupHeader, judged: Sequence[bool], rules: AdvantageRules, spread: RewardSpread | None
) -> GroupAdvantages:
    kept = tuple([one for one, is_judged in zip(header.trajectories, judged, strict=True) if is_judged])
    if not kept:
        return GroupAdvantages((0.0,) * len(judged), (False,) * len(judged), has_signal=False)
    scored = group_advantages(msgspec.structs.replace(header, trajectories=kept), rules, spread)
    advantages, masks = iter(scored.advantages), iter(scored.is_masked)
    return GroupAdvantages(
        tuple([next(advantages) if is_judged else 0.0 for is_judged in judged]),
        tuple([next(masks) if is_judged else False for is_judged in judged]),
        scored.has_signal,
    )


def _scale(estimator: Estimator, counted: Sequence[float], mean: float, spread: RewardSpread | None) -> float:
    size = len(counted)
    if estimator == "dr_grpo":
        return 1.0
    if estimator == "rloo":
        return size / (size - 1)
    variance = sum([(reward - mean) ** 2 for reward in counted]) / size
    std = (spread or RewardSpread()).include(variance) if estimator == "batch_std" else math.sqrt(variance)
    return 1.0 / (std + STD_EPSILON)

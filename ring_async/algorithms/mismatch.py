"""The mismatch of learner and engine at equal version, estimated for tokens on which it cannot be measured.

On a token of staleness 0, log w is the mismatch itself: two programs computed the log-probability of one token under
one set of weights. On a stale token log w = mismatch + learning since then, and only the sum can be measured. With both
parts taken as independent, the best linear estimate of the mismatch is

    mean_0 + (variance_0 / variance_s) · (log w − mean_s)

where mean_s and variance_s are those of log w on tokens of staleness s. It is log w itself at s = 0, and shrinks
towards the mean mismatch the more the policy has moved.

Owns: these running moments and the estimate. Does not own the band that bounds it (`corrections`, `icepop_on`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEMORY = 0.9
"""Weight of the past at every batch: about the last ten count. Steady runs see few staleness-0 tokens in one batch."""

MIN_TOKENS = 32.0
"""A staleness with fewer (decayed) tokens has no usable moments yet."""


class MismatchMoments:
    """Running moments of log w by staleness. A learner has one instance; its checkpoint stores it, so that a resume is
    exact.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float, float]] = {}
        """Staleness → decayed number of tokens, sum and sum of squares of log w."""

    def update(self, log_behavior_ratio: Tensor, token_staleness: Tensor) -> None:
        """Take in one batch.

        Args:
            log_behavior_ratio: finite log w `[T]`.
            token_staleness: int `[T]`.
        """
        values = log_behavior_ratio.double()
        self._sums = {key: (n * MEMORY, s * MEMORY, q * MEMORY) for key, (n, s, q) in self._sums.items()}
        for staleness in torch.unique(token_staleness).tolist():
            chosen = values[token_staleness == staleness]
            n, s, q = self._sums.get(staleness, (0.0, 0.0, 0.0))
            total, squares = float(chosen.sum()), float(chosen.square().sum())
            self._sums[staleness] = (n + chosen.numel(), s + total, q + squares)

    def estimate(self, log_behavior_ratio: Tensor, token_staleness: Tensor) -> Tensor | None:
        """The estimated mismatch as a log ratio `[T]`; None while too few tokens of staleness 0 were seen.

        The estimate is log w itself for tokens whose staleness has no usable moments yet.
        """
        fresh = self._moments(0)
        if fresh is None:
            return None
        estimate = log_behavior_ratio.clone()
        for staleness in torch.unique(token_staleness).tolist():
            moments = self._moments(staleness)
            if staleness <= 0 or moments is None:
                continue
            # Learning only adds variance, so a quotient above 1 is sampling noise.
            share = min(1.0, fresh[1] / moments[1]) if moments[1] > 0 else 1.0
            chosen = token_staleness == staleness
            estimate = torch.where(chosen, fresh[0] + share * (log_behavior_ratio - moments[0]), estimate)
        return estimate

    def _moments(self, staleness: int) -> tuple[float, float] | None:
        n, s, q = self._sums.get(staleness, (0.0, 0.0, 0.0))
        if n < MIN_TOKENS:
            return None
        mean = s / n
        return mean, max(0.0, q / n - mean * mean)

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {str(staleness): list(sums) for staleness, sums in self._sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._sums = {int(staleness): (float(n), float(s), float(q)) for staleness, (n, s, q) in state.items()}

"""The mismatch of learner and engine at equal version, estimated for tokens on which it cannot be measured.

A reading is log(π/μ) of one token, π the learner's policy some versions after the one that sampled the token: its age.
At age 0 the reading is the mismatch itself: two programs computed the log-probability of one token under one set of
weights. On an older token the reading = mismatch + learning since then, and only the sum can be measured. With both
parts taken as independent, the best linear estimate of the mismatch is

    mean_0 + (variance_0 / variance_age) · (reading − mean_age)

where mean_age and variance_age are those of readings of that age. The estimate is the reading itself at age 0, and
shrinks towards the mean mismatch the more the policy has moved.

Where π_prox is known, readings are log w and ages are staleness. Under `proximal: loglinear` with several minibatches
π_prox is known before the batch's first optimizer step alone; later readings are log r = log(π_θ/μ), and their ages are
staleness plus the share of the batch's optimizer steps taken. So only the first minibatch measures the mismatch.

Owns: these running moments and the estimate. Does not own the band that bounds the estimate (`corrections`,
`icepop_on`), nor the interpolation that starts from it (`proximal`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEMORY = 0.9
"""Weight of the past at every batch: about the last ten count. Steady runs see few staleness-0 tokens in one batch."""

MIN_TOKENS = 32.0
"""An age with fewer (decayed) tokens has no usable moments yet."""


class MismatchMoments:
    """Running moments of readings by age. A learner has one instance; its checkpoint stores it, so that a resume is
    exact.
    """

    def __init__(self) -> None:
        self._sums: dict[float, tuple[float, float, float]] = {}
        """Age in versions → decayed number of tokens, sum and sum of squares of their readings."""

    def update(self, readings: Tensor, ages: Tensor) -> None:
        """Take in one batch.

        Args:
            readings: finite log(π/μ) `[T]`, nats.
            ages: `[T]`, versions, ≥ 0.
        """
        values = readings.double()
        self._sums = {key: (n * MEMORY, s * MEMORY, q * MEMORY) for key, (n, s, q) in self._sums.items()}
        for age in torch.unique(ages).tolist():
            chosen = values[ages == age]
            n, s, q = self._sums.get(float(age), (0.0, 0.0, 0.0))
            total, squares = float(chosen.sum()), float(chosen.square().sum())
            self._sums[float(age)] = (n + chosen.numel(), s + total, q + squares)

    def estimate(self, readings: Tensor, ages: Tensor) -> Tensor | None:
        """The estimated mismatch as a log ratio `[T]`; None while too few tokens of age 0 were seen.

        The estimate is the reading itself for tokens whose age has no usable moments yet.
        """
        fresh = self._moments(0.0)
        if fresh is None:
            return None
        estimate = readings.clone()
        for age in torch.unique(ages).tolist():
            moments = self._moments(float(age))
            if age <= 0 or moments is None:
                continue
            # Learning only adds variance, so a quotient above 1 is sampling noise.
            share = min(1.0, fresh[1] / moments[1]) if moments[1] > 0 else 1.0
            estimate = torch.where(ages == age, fresh[0] + share * (readings - moments[0]), estimate)
        return estimate

    def _moments(self, age: float) -> tuple[float, float] | None:
        n, s, q = self._sums.get(age, (0.0, 0.0, 0.0))
        if n < MIN_TOKENS:
            return None
        mean = s / n
        return mean, max(0.0, q / n - mean * mean)

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {repr(age): list(sums) for age, sums in self._sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._sums = {float(age): (float(n), float(s), float(q)) for age, (n, s, q) in state.items()}

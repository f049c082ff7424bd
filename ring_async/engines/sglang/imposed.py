"""Lengths of responses that are imposed rather than sampled, for measurements of speed.

Owns: the law of the lengths. A model's own lengths change with what it learns; imposed ones are the same for every run
that asks with the same seeds, so that two ways to train can be compared.
"""

from __future__ import annotations

import math

import numpy as np

SIGMA = 0.8
"""Of the logarithm: a tenth of the responses is 2.1 times as long as the mean, or longer."""


def imposed_length(seed: int, mean_tokens: float, max_tokens: int) -> int:
    """The length of one response: log-normal with this mean, in `[1, max_tokens]`, the same for the same seed.

    The mean is that of the law before it is cut at `max_tokens`.
    """
    drawn = np.random.default_rng(seed).lognormal(math.log(mean_tokens) - SIGMA**2 / 2, SIGMA)
    return max(1, min(max_tokens, round(float(drawn))))

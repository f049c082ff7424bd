"""What the learner saw of single tokens, for people who read samples.

    train engine ──TrainedTokens──▶ learner ──▶ runs/<name>/trained_tokens/ ──▶ samples, token by token

Owns: the record. Does not own its numbers (`training.trained_tokens`), nor the file (`storage.trained_tokens`).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Fate(IntEnum):
    """What the correction made of a token."""

    TRAINED = 0
    MASKED = 1
    """Left out: the policies differ too much there."""
    CLIPPED = 2
    """In the loss, without a gradient: the policy moved far enough already."""
    NONFINITE = 3
    """Left out: one of its numbers is none."""


class TrainedTokens(msgspec.Struct, frozen=True, array_like=True):
    """Tokens `[start, start + number of fates)` of one response, as one batch trained them."""

    trajectory_id: str
    policy_version: int
    """Number of the version that was trained from."""
    start: int
    ratios: bytes
    """float32, little-endian: π_prox / π_behavior of each token (`behavior_ratio` of docs/algorithm.md)."""
    fates: bytes
    """A `Fate` of each token."""

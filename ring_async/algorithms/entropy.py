"""Entropy of next-token distributions, over the whole vocabulary.

Owns: the formula. Does not own the entropy bonus (`losses`).
"""

from __future__ import annotations

from torch import Tensor


def entropy_of(all_logprobs: Tensor) -> Tensor:
    """−Σ_v p_v log p_v in nats.

    Args:
        all_logprobs: `[T, V]`, normalized over the last axis.

    Returns:
        `[T]`. A token of probability 0 (log-probability −inf) adds 0, as its limit does.
    """
    return -(all_logprobs.exp() * all_logprobs.clamp(min=-1e4)).sum(dim=-1)

"""Sampling one token per request, reproducibly.

Owns: each request's random stream and the draw. A stream is a counter, not a state: uniform number `index` of `seed` is
always the same, so a response depends neither on its neighbours in the batch nor on having been interrupted.

Different batches may round logits differently in the last bits, so a draw that falls within that rounding of a border
between two tokens (about one in a million) may still differ.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Number `indices[i]` of stream `seeds[i]`, in [0, 1): float64 `[R]` (SplitMix64 over a mixed seed)."""
    with np.errstate(over="ignore"):
        state = _mix(seeds + _GOLDEN) + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def sample(logits: torch.Tensor, temperatures: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by the inverse of its cumulative distribution.

    Args:
        logits: float `[R, V]`.
        temperatures: float32 `[R]`; 0 takes the most likely token.
        draws: float64 `[R]`, uniform in [0, 1).

    Returns:
        Tokens int64 `[R]`, and their log-probabilities float32 `[R]` (nats) under softmax(logits / temperature): the
        distribution they were drawn from, which at temperature 0 is certain (0 nats).
    """
    is_greedy = temperatures == 0
    scaled = logits.float() / torch.where(is_greedy, 1.0, temperatures).unsqueeze(1)
    logprobs = torch.log_softmax(scaled, dim=-1)
    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    targets = draws.unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=logits.shape[1] - 1)
    tokens = torch.where(is_greedy.unsqueeze(1), logprobs.argmax(dim=-1, keepdim=True), tokens)
    chosen = logprobs.gather(1, tokens).squeeze(1)
    return tokens.squeeze(1), torch.where(is_greedy, 0.0, chosen)

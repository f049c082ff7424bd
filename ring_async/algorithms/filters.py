"""Optional masks on top of a correction rule; each is off unless configured, and is counted by name.

Owns: their formulas, and means over whole responses. Does not own the rules' own bounds (`corrections`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """Which filters are on. None: off.

    Attributes:
        sequence_reject: masks a response whose mean log w lies outside of [low, high] (nats).
        off_policy_delta: masks a response with A < 0 and mean(log μ − log π_θ) above this (nats).
        max_probability_gap: masks a token with |π_θ − μ| above this.
    """

    sequence_reject: tuple[float, float] | None = None
    off_policy_delta: float | None = None
    max_probability_gap: float | None = None

    @property
    def needs_full_responses(self) -> bool:
        return self.sequence_reject is not None or self.off_policy_delta is not None


def mean_by_sequence(values: Tensor, sequence_ids: Tensor, counted: Tensor) -> Tensor:
    """Mean of `values` over the counted tokens of each token's own response. All `[T]`; 0 where none is counted."""
    num_sequences = int(sequence_ids.max()) + 1 if sequence_ids.numel() else 0
    sums = torch.zeros(num_sequences, dtype=values.dtype, device=values.device)
    counts = torch.zeros_like(sums)
    sums = sums.index_add(0, sequence_ids, torch.where(counted, values, 0.0))
    counts = counts.index_add(0, sequence_ids, counted.to(values.dtype))
    return (sums / counts.clamp(min=1.0))[sequence_ids]


def filtered_tokens(
    settings: FilterSettings,
    *,
    policy_logprobs: Tensor,
    behavior_logprobs: Tensor,
    log_behavior_ratio: Tensor,
    advantages: Tensor,
    sequence_ids: Tensor,
    is_sampled: Tensor,
) -> dict[str, Tensor]:
    """Tokens masked by each filter that is on: bool `[T]` by the filter's configuration key.

    Means run over all finite sampled tokens of the full response, those without loss included.
    """
    filtered: dict[str, Tensor] = {}
    if settings.sequence_reject is not None:
        low, high = settings.sequence_reject
        mean = mean_by_sequence(log_behavior_ratio, sequence_ids, is_sampled)
        filtered["sequence_reject"] = (mean < low) | (mean > high)
    if settings.off_policy_delta is not None:
        mean = mean_by_sequence(behavior_logprobs - policy_logprobs, sequence_ids, is_sampled)
        filtered["off_policy_delta"] = (advantages < 0) & (mean > settings.off_policy_delta)
    if settings.max_probability_gap is not None:
        gap = (policy_logprobs.exp() - behavior_logprobs.exp()).abs()
        filtered["max_probability_gap"] = gap > settings.max_probability_gap
    return filtered

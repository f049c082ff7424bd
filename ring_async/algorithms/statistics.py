"""The statistics that are logged of every batch: the learner's part of a `metrics.jsonl` line.

Owns: the names and formulas of these numbers. Does not own the losses.
Invariants: values are detached and gathered over microbatches, then summarized once; every loss token of the batch
counts once, with M > 1 in its own minibatch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ring_async.algorithms.corrections import Corrected, TokenBatch
from ring_async.batches import BatchPlan

LOW_EFFECTIVE_SAMPLE_SIZE = 0.3
"""`effective_sample_size` below this raises `effective_sample_size_low`: it falls before a run collapses."""

QUANTILES = (0.01, 0.5, 0.99)

_Array = npt.NDArray[Any]


def rl_columns(
    tokens: TokenBatch,
    corrected: Corrected,
    entropy: Tensor,
    kl: Tensor | None,
    *,
    interpolated_versions: float = 0.0,
) -> dict[str, Tensor]:
    """Detached values of one microbatch's loss tokens, by the names that `BatchStatistics` summarizes.

    Args:
        tokens: the microbatch.
        corrected: the correction rule's result for the microbatch.
        entropy: `[T]`, nats.
        kl: `[T]`, nats; None without reference weights.
        interpolated_versions: 0 where π_prox is known. Where it was interpolated, the versions from π_prox to π_θ: the
            mismatch is read from log r then (`mismatch`), at an age greater than the staleness.

    Returns:
        `[number of loss tokens]` each.
    """
    columns = {
        "is_used": corrected.is_used,
        "is_masked": corrected.is_masked,
        "is_clipped": corrected.is_clipped,
        "advantage": tokens.advantages,
        "staleness": tokens.token_staleness,
        "log_w": corrected.log_behavior_ratio,
        "log_r": corrected.log_total_ratio,
        "mismatch_reading": corrected.log_total_ratio if interpolated_versions > 0 else corrected.log_behavior_ratio,
        "reading_age": tokens.token_staleness.double() + interpolated_versions,
        "entropy": entropy,
        "surrogate": corrected.surrogate,
        **{f"filtered_{name}": mask for name, mask in corrected.filtered.items()},
    }
    if kl is not None:
        columns["kl"] = kl
    return {name: values.detach()[tokens.is_loss] for name, values in columns.items()}


class BatchStatistics:
    """Per-token values of one batch, microbatch by microbatch."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, columns: dict[str, Tensor]) -> None:
        """Take in one microbatch, as `rl_columns` describes it."""
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def columns(self, *names: str) -> dict[str, _Array]:
        """The values so far, `[number of loss tokens]` each: of these names as far as they are there, or of all."""
        return {
            name: torch.cat(parts).cpu().numpy() for name, parts in self._columns.items() if not names or name in names
        }

    def mismatch_readings(self) -> tuple[Tensor, Tensor]:
        """Readings and ages of the finite loss tokens so far, for `MismatchMoments.update`."""
        used = torch.cat(self._columns["is_used"])
        return torch.cat(self._columns["mismatch_reading"])[used], torch.cat(self._columns["reading_age"])[used]

    def summary(self) -> dict[str, Any]:
        """The statistics by the names they are logged under. `docs/algorithm.md` explains each."""
        table = self.columns()
        num_tokens = int(table["is_used"].size)
        used = table.pop("is_used")
        table = {name: values[used] for name, values in table.items()}
        staleness = table["staleness"]
        log_w = table["log_w"].astype(np.float64)
        log_r = table["log_r"].astype(np.float64)
        fresh = table["mismatch_reading"][table["reading_age"] == 0].astype(np.float64)
        sample_size = effective_sample_size(log_w)
        masked = table["is_masked"]
        signs = {"positive": table["advantage"] > 0, "negative": table["advantage"] < 0}
        ages = {str(age): staleness == age for age in np.unique(staleness).tolist()}
        return {
            "loss_tokens": num_tokens,
            "nonfinite_tokens": num_tokens - int(used.sum()),
            "surrogate": _mean(table["surrogate"]),
            "entropy": _mean(table["entropy"]),
            "kl": _mean(table["kl"]) if "kl" in table else None,
            "behavior_kl": _mean(np.expm1(log_r) - log_r),
            "effective_sample_size": sample_size,
            "effective_sample_size_low": sample_size < LOW_EFFECTIVE_SAMPLE_SIZE,
            "behavior_ratio_mean": _mean(np.exp(log_w)),
            "behavior_ratio_masked": _mean(masked),
            "behavior_ratio_masked_by_staleness": {age: _mean(masked[chosen]) for age, chosen in ages.items()},
            "behavior_ratio_masked_by_sign": {sign: _mean(masked[chosen]) for sign, chosen in signs.items()},
            "behavior_ratio_quantiles": {age: _quantiles(log_w[chosen]) for age, chosen in ages.items()},
            "loss_tokens_by_staleness": {age: int(chosen.sum()) for age, chosen in ages.items()},
            "policy_ratio_clipped": _mean(table["is_clipped"]),
            "mismatch_ratio": _mean(np.exp(fresh)) if fresh.size else None,
            "mismatch_ratio_quantiles": _quantiles(fresh) if fresh.size else None,
            "mismatch_tokens": int(fresh.size),
            "mismatch_kl": _mean(np.expm1(fresh) - fresh) if fresh.size else None,
            "filtered": {
                name.removeprefix("filtered_"): int(table[name].sum()) for name in table if "filtered_" in name
            },
        }


def sft_columns(policy_logprobs: Tensor, entropy: Tensor | None, is_loss: Tensor) -> dict[str, Tensor]:
    """Detached values of one supervised microbatch's loss tokens, for `CrossEntropyStatistics`.

    Args:
        policy_logprobs: log π_θ `[T]`.
        entropy: `[T]`, nats; None if it was not computed.
        is_loss: bool `[T]`.
    """
    columns = {"cross_entropy": -policy_logprobs.detach()[is_loss]}
    if entropy is not None:
        columns["entropy"] = entropy.detach()[is_loss]
    return columns


class CrossEntropyStatistics:
    """Per-token values of one supervised batch, microbatch by microbatch."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, columns: dict[str, Tensor]) -> None:
        """Take in one microbatch, as `sft_columns` describes it."""
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def summary(self) -> dict[str, Any]:
        """`loss_tokens`; `cross_entropy` and `entropy`, means over them in nats, entropy None where it is unknown."""
        table = {name: torch.cat(parts).cpu().numpy() for name, parts in self._columns.items()}
        return {
            "loss_tokens": int(table["cross_entropy"].size),
            "cross_entropy": _mean(table["cross_entropy"]),
            "entropy": _mean(table["entropy"]) if "entropy" in table else None,
        }


def effective_sample_size(log_weights: _Array) -> float:
    """(Σw)² / (n·Σw²), in (0, 1]: 1 when all weights are equal, 1/n when one outweighs the others. 0 for no tokens."""
    if log_weights.size == 0:
        return 0.0
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights.size * np.square(weights).sum()))


def plan_statistics(plan: BatchPlan) -> dict[str, Any]:
    """The statistics that follow from a plan alone: rewards, staleness, padding. Means run over its sequences."""
    sequences = plan.sequences
    sources: dict[str, list[float]] = {}
    for sequence in sequences:
        sources.setdefault(sequence.source, []).append(sequence.reward)
    staleness = [sequence.staleness for sequence in sequences]
    rewards = [sequence.reward for sequence in sequences]
    num_tokens = sum(sequence.num_prompt_tokens + sequence.num_response_tokens for sequence in sequences)
    num_positions = plan.num_rows * plan.token_capacity
    return {
        "reward_mean": sum(rewards) / len(rewards) if rewards else 0.0,
        "reward_by_source": {source: sum(values) / len(values) for source, values in sorted(sources.items())},
        "staleness_mean": sum(staleness) / len(staleness) if staleness else 0.0,
        "staleness_max": max(staleness, default=0),
        "padding_fraction": 1 - num_tokens / num_positions if num_positions else 0.0,
        "num_sequences": len(sequences),
    }


def _mean(values: _Array) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else 0.0


def _quantiles(log_ratios: _Array) -> dict[str, float]:
    values = np.exp(np.quantile(log_ratios, QUANTILES))
    return {f"p{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, values, strict=True)}

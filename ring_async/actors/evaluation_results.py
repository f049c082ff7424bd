"""The results of an evaluation: the answer to each problem, and the figures over all of them.

Owns: the results, kept one by one so that intervals over problems and seeds can be computed afterwards, and the means
over them. Does not own how problems are answered (`evaluation`), or printing.
Invariant: a problem whose verifier failed has no reward and enters no mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from ring_async.types import FinishReason

_SOLVED = 1.0 - 1e-6


class ProblemResult(msgspec.Struct, frozen=True):
    """One answer to one problem. `reward` is None where the verifier failed; `failure` then says why."""

    source: str
    prompt_id: str
    temperature: float
    response: str
    num_tokens: int
    finish_reason: FinishReason
    reward: float | None
    failure: str = ""

    @property
    def is_solved(self) -> bool:
        """Whether the answer earned the full reward; partial credit counts in mean rewards alone."""
        return self.reward is not None and self.reward >= _SOLVED


class EvaluationRow(msgspec.Struct, frozen=True):
    """Means over the judged problems of one source (or all: `source` is `all`) at one temperature."""

    source: str
    temperature: float
    num_problems: int
    num_failed: int
    """Answers that could not be judged."""
    accuracy: float
    """Share of answers that solve their problem (pass@1; avg@k with k answers each); NaN if no answer was judged."""
    reward_mean: float
    tokens_mean: float
    truncated_share: float


class Evaluation(msgspec.Struct, frozen=True):
    """All results, ordered by temperature, source, problem, sample: evaluations of the same problems align."""

    seed: int
    max_tokens: int
    results: tuple[ProblemResult, ...]

    def select(self, temperature: float, source: str | None = None) -> list[ProblemResult]:
        """The results at one temperature, of one source or of all."""
        return [r for r in self.results if r.temperature == temperature and source in {None, r.source}]

    def rows(self) -> list[EvaluationRow]:
        """One row for each source and temperature, and one over all sources for each temperature."""
        temperatures = list(dict.fromkeys(result.temperature for result in self.results))
        sources = list(dict.fromkeys(result.source for result in self.results))
        return [
            _row(source or "all", temperature, self.select(temperature, source))
            for temperature in temperatures
            for source in (*sources, None)
        ]


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, as plain data for a line of `evaluations.jsonl`; a figure is None where no answer
    was judged.

    `pass_at_1` is the share of problems whose greedy answer solves them, `avg_at_k` the share of all sampled answers, k
    for each problem, that do; both over all sources and for each.
    """
    by_source: dict[str, dict[str, Any]] = {}
    for row in evaluation.rows():
        figures = by_source.setdefault(row.source, {"num_problems": row.num_problems, "num_failed": 0})
        figures["num_failed"] += row.num_failed
        solved, reward = ("pass_at_1", "reward_greedy") if row.temperature == 0 else ("avg_at_k", "reward_sampled")
        figures[solved] = None if math.isnan(row.accuracy) else row.accuracy
        figures[reward] = None if math.isnan(row.reward_mean) else row.reward_mean
    overall = by_source.pop("all")
    num_sampled = sum(result.temperature > 0 for result in evaluation.results)
    return overall | {"k": num_sampled // max(1, overall["num_problems"]), "by_source": by_source}


def _row(source: str, temperature: float, results: Sequence[ProblemResult]) -> EvaluationRow:
    judged = [result for result in results if result.reward is not None]
    rewards = [result.reward for result in results if result.reward is not None]
    return EvaluationRow(
        source=source,
        temperature=temperature,
        num_problems=len({result.prompt_id for result in results}),
        num_failed=len(results) - len(judged),
        accuracy=_mean([result.is_solved for result in judged]),
        reward_mean=_mean(rewards),
        tokens_mean=_mean([result.num_tokens for result in results]),
        truncated_share=_mean([result.finish_reason == "length" for result in results]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

"""The figures of a run in a few lines: from rows to named numbers, and from numbers to words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ring_async.monitoring.report.rows import Row, column, read_evaluations, rows_or_refuse, sources_of
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace_parts import busy_intervals, busy_overlap

_WINDOW_SHARE, _WINDOW_MAX = 0.1, 10
"""First and last rewards are means over a tenth of the versions, ten at most: one batch alone is mostly noise."""


def summary(run_dir: Path) -> dict[str, Any]:
    """The figures of a run as plain data; None where the files don't hold a figure.

    Raises:
        RunError: the run has no optimizer step yet.
    """
    rows = rows_or_refuse(run_dir)
    wall_s = _last(rows, "wall_s")
    loss_tokens = _total(rows, "loss_tokens")
    window = max(1, min(_WINDOW_MAX, math.ceil(len(rows) * _WINDOW_SHARE)))
    first, last = rows[:window], rows[-window:]
    return {
        "run": run_dir.resolve().name,
        "policy_versions": len(rows),
        "last_policy_version": rows[-1]["policy_version"],
        "wall_s": wall_s,
        "reward_window_versions": window,
        "reward_first": _mean(column(first, "reward_mean")),
        "reward_last": _mean(column(last, "reward_mean")),
        "reward_by_source": {
            source: {"first": _source_mean(first, source), "last": _source_mean(last, source)}
            for source in sources_of(rows)
        },
        "loss_tokens": loss_tokens,
        "steps_off_budget": sum(_is_off_budget(row) for row in rows[:-1]) + int(_is_over_budget(rows[-1])),
        "staleness_mean": _mean(column(rows, "staleness_mean")),
        "staleness_max": _most(rows, "staleness_max"),
        "evicted": _most(rows, "evicted"),
        "effective_sample_size_min": _least(rows, "effective_sample_size"),
        "entropy_first": _mean(column(first, "entropy")),
        "entropy_last": _mean(column(last, "entropy")),
        "trained_tokens_per_s": loss_tokens / wall_s if loss_tokens and wall_s else None,
        "generated_tokens_per_s": _mean(column(rows, "generated_tokens_per_s")),
        "learner_wait_share": _share(_total(rows, "wait_batch_s"), wall_s),
        "generate_train_overlap": _overlap(run_dir),
        "evaluations": read_evaluations(run_dir),
    }


def print_summary(run_dir: Path, out: Console) -> None:
    """The summary as a table.

    Raises:
        RunError: the run has no optimizer step yet.
    """
    figures = summary(run_dir)
    table = Table(
        title=f"run {figures['run']}", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for words in summary_lines(figures):
        table.add_row(*words)
    out.print(table)


def summary_lines(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """`(what, how much, remark)` in the order people ask."""
    window = figures["reward_window_versions"]
    lines = [
        ("policy versions", str(figures["policy_versions"]), f"in {_text(figures['wall_s'], '{:.0f} s')}"),
        (
            "reward",
            f"{_text(figures['reward_first'])} → {_text(figures['reward_last'])}",
            f"means of the first and last {window} batch{'es' if window > 1 else ''}",
        ),
    ]
    lines += [
        (f"  {source}", f"{_text(means['first'])} → {_text(means['last'])}", "")
        for source, means in figures["reward_by_source"].items()
    ]
    lines += _evaluation_lines(figures.get("evaluations") or ())
    off = figures["steps_off_budget"]
    lines += [
        ("tokens trained", _text(figures["loss_tokens"], "{:,.0f}"), _budget_remark(off)),
        ("tokens/s trained", _text(figures["trained_tokens_per_s"], "{:,.0f}"), ""),
        ("tokens/s generated", _text(figures["generated_tokens_per_s"], "{:,.0f}"), ""),
        (
            "staleness",
            _text(figures["staleness_mean"], "{:.2f}"),
            f"versions in the mean, {_text(figures['staleness_max'], '{:.0f}')} at most",
        ),
        ("evicted", _text(figures["evicted"], "{:.0f}"), "trajectories past the bound"),
        ("effective sample size", _text(figures["effective_sample_size_min"]), "of 1, at its lowest"),
        ("entropy", f"{_text(figures['entropy_first'])} → {_text(figures['entropy_last'])}", "nats"),
        ("learner waited", _text(figures["learner_wait_share"], "{:.0%}"), "of the time, for a batch"),
    ]
    if figures["generate_train_overlap"] is not None:
        lines.append(("overlap", f"{figures['generate_train_overlap']:.0%}", "generating while training"))
    return lines


def _evaluation_lines(evaluations: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Held-out accuracy: the first evaluated version against the last."""
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    where = f"held-out problems, versions {first['policy_version']} and {last['policy_version']}"
    shown = [("pass@1", "pass_at_1")] + ([(f"avg@{last['k']}", "avg_at_k")] if last.get("k") else [])
    return [(name, f"{_text(first.get(key))} → {_text(last.get(key))}", where) for name, key in shown]


def _overlap(run_dir: Path) -> float | None:
    """The overlap of generation and training; None if the timeline was off or lacks one of the two kinds of span."""
    parts = RunDir(run_dir).trace_parts
    if not busy_intervals(parts, "generate") or not busy_intervals(parts, "train"):
        return None
    return busy_overlap(parts)


def _is_off_budget(row: Row) -> bool:
    return "token_budget" in row and row.get("loss_tokens") != row["token_budget"]


def _is_over_budget(row: Row) -> bool:
    """Whether a batch exceeds the budget. A smaller one may be right at the end: a stage's declared last batch."""
    return _is_off_budget(row) and row.get("loss_tokens", 0) > row["token_budget"]


def _budget_remark(steps_off_budget: int) -> str:
    if steps_off_budget:
        return f"{steps_off_budget} batches were NOT exactly the token budget"
    return "every batch exactly the token budget"


def _numbers(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    numbers = _numbers(values)
    return sum(numbers) / len(numbers) if numbers else None


def _source_mean(rows: Sequence[Row], source: str) -> float | None:
    return _mean(column([row.get("reward_by_source") or {} for row in rows], source))


def _total(rows: Sequence[Row], key: str) -> float | None:
    numbers = _numbers(column(rows, key))
    return sum(numbers) if numbers else None


def _last(rows: Sequence[Row], key: str) -> float | None:
    numbers = _numbers(column(rows, key))
    return numbers[-1] if numbers else None


def _most(rows: Sequence[Row], key: str) -> float | None:
    return max(_numbers(column(rows, key)), default=None)


def _least(rows: Sequence[Row], key: str) -> float | None:
    return min(_numbers(column(rows, key)), default=None)


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _text(value: float | None, form: str = "{:.3f}") -> str:
    return "–" if value is None else form.format(value)

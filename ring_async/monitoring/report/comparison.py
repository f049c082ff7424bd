"""Two runs side by side: their figures, their curves in one picture, and what differs in their configurations.

    ring-async report mine other  ──▶  a table, and mine/comparison_other.png

Owns: what is compared. Does not own the figures (`summary`) nor how panels look (`curves`).
Invariant: both runs are read alike, and neither is changed but for the picture in the first one's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ring_async.config.load import flatten
from ring_async.monitoring.report.rows import (
    Row,
    column,
    read_config,
    read_evaluations,
    rows_or_refuse,
    with_evaluations,
)
from ring_async.monitoring.report.summary import summary, summary_lines
from ring_async.storage.run_dir import RunDir

_OWN_KEYS = ("run.", "control.", "monitoring.")
"""Settings that differ between any two runs and explain nothing."""

_PANELS = (
    ("Reward", "mean of all scored", "reward_mean"),
    ("Held-out problems", "pass@1", "pass_at_1"),
    ("Entropy", "nats a token", "entropy"),
    ("Effective sample size", "of 1", "effective_sample_size"),
    ("Staleness", "versions, mean", "staleness_mean"),
    ("Masked by the correction", "share of tokens", "behavior_ratio_masked"),
    ("Trained", "tokens/s", "tokens_per_s"),
    ("Generated", "tokens/s", "generated_tokens_per_s"),
    ("Learner waits", "s a batch", "wait_batch_s"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    Attributes:
        names: of the runs.
        lines: `(what, of the first, of the second)`; a dash where one lacks the figure.
        settings: `(dotted key, value in the first, value in the second)`, where they differ.
    """

    names: tuple[str, str]
    lines: list[tuple[str, str, str]]
    settings: list[tuple[str, Any, Any]]

    def plain(self) -> dict[str, Any]:
        """The comparison as plain data."""
        first, second = self.names
        return {
            "runs": [first, second],
            "figures": {what: [left, right] for what, left, right in self.lines},
            "settings": {key: [left, right] for key, left, right in self.settings},
        }


def compare(first: Path, second: Path) -> Comparison:
    """Compare the runs in two folders.

    Raises:
        RunError: one of them has no optimizer step yet.
    """
    figures = summary(first), summary(second)
    left, right = ({what.strip(): much for what, much, _ in summary_lines(one)} for one in figures)
    names = (str(figures[0]["run"]), str(figures[1]["run"]))
    lines = [(what, left.get(what, "–"), right.get(what, "–")) for what in dict.fromkeys([*left, *right])]
    before, after = (dict(flatten(read_config(path))) for path in (first, second))
    keys = sorted(key for key in before.keys() | after.keys() if not key.startswith(_OWN_KEYS))
    settings = [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]
    return Comparison(names, lines, settings)


def print_comparison(compared: Comparison, out: Console) -> None:
    """Both tables: figures, then settings that differ."""
    first, second = compared.names
    for title, lines in (("", compared.lines), ("settings that differ", compared.settings)):
        if not lines:
            continue
        table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("", style="dim")
        table.add_column(Text(first), justify="right")
        table.add_column(Text(second), justify="right")
        for what, left, right in lines:
            table.add_row(what, str(left), str(right))
        out.print(table)


def write_comparison(first: Path, second: Path) -> Path:
    """Draw both runs' curves into one picture, in the first one's folder; returns its path.

    Raises:
        RunError: one of them has no optimizer step yet.
    """
    from ring_async.monitoring.report.curves import Curve, Panel, draw_panels

    names = first.resolve().name, second.resolve().name
    rows = [_rows(first), _rows(second)]
    versions = sorted({row["policy_version"] for one in rows for row in one})
    aligned = [_at(versions, one) for one in rows]
    drawn = [
        Panel(title, unit, [Curve(name, column(one, key)) for name, one in zip(names, aligned, strict=True)])
        for title, unit, key in _PANELS
        if any(row.get(key) is not None for one in rows for row in one)
    ]
    path = RunDir(first).path / f"comparison_{names[1]}.png"
    draw_panels(drawn, [float(one) for one in versions], path, title=f"{names[0]} and {names[1]}")
    return path


def _rows(run_dir: Path) -> list[Row]:
    rows = with_evaluations(rows_or_refuse(run_dir), read_evaluations(run_dir))
    return [row | {"pass_at_1": row["evaluation"].get("pass_at_1")} for row in rows]


def _at(versions: Sequence[int], rows: Sequence[Row]) -> list[Row]:
    """A row for each version; empty where the run has none."""
    by_version = {row["policy_version"]: row for row in rows}
    return [by_version.get(version, {}) for version in versions]

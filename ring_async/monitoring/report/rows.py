"""A run's files as rows: steps, evaluations and changes, read tolerantly, since a run may be writing them.

Owns: the order of rows, and what counts where a version was trained or evaluated twice. Does not own the lines'
fields (`records.steps`, `records.events`); a row is a record as a mapping, so that a curve can name its column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ring_async.core.event_kinds import EventKind
from ring_async.errors import RunError
from ring_async.records.steps import EvaluationRecord, StepRecord, evaluation_record, step_record
from ring_async.storage.run_dir import RunDir

Row = dict[str, Any]
_Record = TypeVar("_Record", StepRecord, EvaluationRecord)


_CHANGES: Mapping[str, str] = {
    EventKind.VERIFIER_SWAPPED: "verifier",
    EventKind.VERIFIER_ROLLED_BACK: "rollback",
    EventKind.MIXTURE_CHANGED: "mixture",
    EventKind.DIFFICULTY_CHANGED: "difficulty",
    EventKind.KNOBS_CHANGED: "settings",
    EventKind.SCALED: "size",
}


def read_steps(run_dir: Path) -> list[StepRecord]:
    """Steps of `metrics.jsonl` in order of policy version, one for each version; `wall_s` runs on over restarts."""
    by_version: dict[int, StepRecord] = {}
    offset_s = last_s = 0.0
    for step in _records(read_lines(RunDir(run_dir).metrics), step_record):
        wall_s = step.wall_s
        if wall_s is not None:
            if offset_s + wall_s < last_s:
                offset_s = last_s
            wall_s = last_s = offset_s + wall_s
        by_version[step.policy_version] = msgspec.structs.replace(step, wall_s=wall_s)
    return [by_version[number] for number in sorted(by_version)]


def read_rows(run_dir: Path) -> list[Row]:
    """`read_steps` as rows."""
    return [step.plain() for step in read_steps(run_dir)]


def read_evaluations(run_dir: Path) -> list[Row]:
    """Lines of `evaluations.jsonl` in order of policy version, the last one of each; empty where none was evaluated."""
    rows = [one.plain() for one in _records(read_lines(RunDir(run_dir).evaluations), evaluation_record)]
    by_version = {row["policy_version"]: row for row in rows}
    return [by_version[number] for number in sorted(by_version)]


def _records(lines: Sequence[Row], read: Callable[[Row], _Record]) -> Iterator[_Record]:
    """The lines that are records, each without its odd figures."""
    for line in lines:
        try:
            yield read(line)
        except ValueError:
            continue


def read_lines(path: Path) -> list[Row]:
    """JSON objects of a file, one a line; torn lines are left out, a missing file is empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def read_config(run_dir: Path) -> dict[str, Any]:
    """The run's resolved configuration as plain data; empty if it is not there."""
    try:
        config = json.loads(RunDir(run_dir).config.read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def column(rows: Sequence[Row], key: str) -> list[float]:
    """One value for each row; NaN where it is missing or no number."""
    values = (row.get(key) for row in rows)
    return [float(value) if isinstance(value, int | float) else math.nan for value in values]


def sources_of(rows: Sequence[Row]) -> list[str]:
    """All prompt sources that were ever trained."""
    return sorted({source for row in rows for source in row.get("reward_by_source") or {}})


def changes_of(rows: Sequence[Row], events: Sequence[Row]) -> list[tuple[float, str]]:
    """The changes that people made while the run went on: for each the policy version before it, and a word for the
    change.
    """
    changes = []
    for event in events:
        if name := _CHANGES.get(str(event.get("kind"))):
            before = [row["policy_version"] for row in rows if row.get("time", math.inf) <= event.get("time", 0.0)]
            changes.append((float(before[-1]) if before else 0.0, name))
    return changes


def with_evaluations(rows: Sequence[Row], evaluations: Sequence[Row]) -> list[Row]:
    """Each step's row with the evaluation of the version that it made, for the curves."""
    by_version = {row["policy_version"]: row for row in evaluations}
    return [row | {"evaluation": by_version.get(row["policy_version"], {})} for row in rows]


def rows_or_refuse(run_dir: Path) -> list[Row]:
    rows = read_rows(run_dir)
    if not rows:
        raise RunError(
            f"{run_dir}: no optimizer step yet ({RunDir(run_dir).metrics.name} is empty or missing); "
            "see what the run waits for: ring-async status"
        )
    return rows

"""What every benchmark leaves behind: its bars, and where they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it must reach. `is_upper`: it must stay at or below the bar instead."""

    value: float
    bar: float
    unit: str
    is_upper: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.is_upper else self.value >= self.bar


def write_bars(name: str, bars: dict[str, Bar], *, table: Mapping[str, Mapping[str, float]] | None = None) -> Path:
    """Write build/bench/<name>.json and print one line for each bar.

    Args:
        name: of the benchmark.
        bars: by what they measure.
        table: figures behind the bars, by row and column, written beside them.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    content = {key: {"value": b.value, "bar": b.bar, "holds": b.holds, "unit": b.unit} for key, b in bars.items()}
    where = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    shown = {} if table is None else {"table": table}
    path.write_text(json.dumps({**content, **shown, **where}, indent=1, ensure_ascii=False) + "\n")
    for key, one in bars.items():
        sign = "≤" if one.is_upper else "≥"
        print(f"{'holds' if one.holds else 'MISSED':7} {key}: {one.value:,.3g} {one.unit} (bar {sign} {one.bar:,.3g})")
    return path

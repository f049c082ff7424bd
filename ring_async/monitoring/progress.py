"""The line that `up` shows while a run goes on.

    metrics.jsonl ──Progress.follow──▶ ━━━━ version 12/100  reward 0.612  …  3 min 20 s left

Owns: following the file, and what the line says. Does not own the file.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ring_async.monitoring.figures import bar, duration, number


class Progress:
    """One line that follows `metrics.jsonl`: version k/N, reward, tokens/s, time left.

    On a terminal the line is drawn over itself; elsewhere (a log file, CI) about twenty lines are printed in all.
    """

    def __init__(self, num_versions: int, out: Console) -> None:
        self._num_versions = num_versions
        self._out = out
        self._position = 0
        self._pace: deque[tuple[int, float]] = deque(maxlen=20)
        self._printed_version = 0
        self._live = Live(Text("waiting for the first step …", style="dim"), console=out, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._out.is_terminal:
            self._live.stop()

    def follow(self, metrics: Path) -> None:
        """Show what was written since the last call; a line still being written is left for the next."""
        row = None
        try:
            with metrics.open("rb") as stream:
                stream.seek(self._position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    self._position += len(line)
                    row = self._take(line) or row
        except FileNotFoundError:
            return
        if row is not None:
            self._show(row)

    def _take(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict) or not isinstance(row.get("policy_version"), int):
            return None
        wall_s = row.get("wall_s")
        if isinstance(wall_s, int | float):
            if self._pace and wall_s < self._pace[-1][1]:
                self._pace.clear()  # a resumed run: its clock began anew
            self._pace.append((row["policy_version"], float(wall_s)))
        return row

    def _show(self, row: Mapping[str, Any]) -> None:
        version = int(row["policy_version"])
        text = progress_line(row, self._num_versions, remaining_s=self._remaining_s(version))
        if self._out.is_terminal:
            self._live.update(text, refresh=True)
            return
        if version >= self._num_versions or version >= self._printed_version + max(1, self._num_versions // 20):
            self._printed_version = version
            self._out.print(text, soft_wrap=True)

    def _remaining_s(self, version: int) -> float | None:
        """The seconds left, from the pace of the last twenty steps."""
        if len(self._pace) < 2:
            return None
        (first, first_s), (last, last_s) = self._pace[0], self._pace[-1]
        if last <= first:
            return None
        return max(0, self._num_versions - version) * (last_s - first_s) / (last - first)


def progress_line(row: Mapping[str, Any], num_versions: int, *, remaining_s: float | None = None) -> Text:
    """One step in one line."""
    version = row["policy_version"]
    text = bar(version / max(1, num_versions))
    text.append(f" version {version}/{num_versions}", style="bold")
    text.append(f"  reward {number(row.get('reward_mean'), '.3f')}")
    text.append(f"  {number(row.get('tokens_per_s'))} tokens/s")
    text.append(f"  staleness {number(row.get('staleness_mean'), '.1f')}")
    if remaining_s is not None:
        text.append(f"  {duration(remaining_s)} left", style="dim")
    return text

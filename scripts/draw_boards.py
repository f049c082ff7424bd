"""Draw Grafana's boards with matplotlib, from what a Prometheus answers to their queries: the pictures of the docs.

    python scripts/draw_boards.py http://127.0.0.1:40817 RUN docs/ [END, in seconds since the epoch; now by default]

Reads: the Prometheus at the first argument, over the last `MINUTES` before the end. Writes: `board_<name>.png` for each
board.
"""

from __future__ import annotations

import math
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ring_async.monitoring.grafana.boards import BOARDS
from ring_async.monitoring.grafana.panels import RATE, Board, Panel, Unit

MINUTES, STEP_S = 7, 5
COLUMNS = 4
MAX_LINES = 8


def answers(url: str, run: str, panel: Panel, end_s: float) -> list[tuple[str, list[tuple[float, float]]]]:
    """Lines of a panel: a name, and its points as (seconds since the epoch, value)."""
    lines = []
    for query in panel.queries:
        expression = query.expression.replace("$run", run).replace(RATE, "30s")
        parameters: dict[str, Any] = {"query": expression, "start": end_s - 60 * MINUTES, "end": end_s, "step": STEP_S}
        answer = httpx.get(f"{url}/api/v1/query_range", params=parameters, timeout=30.0, trust_env=False).json()
        for one in answer["data"]["result"]:
            name = query.legend
            for label, value in one["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(float(at), float(value)) for at, value in one["values"]]
            lines.append((name, [(at, value) for at, value in points if math.isfinite(value)]))
    return [(name, points) for name, points in lines if points][:MAX_LINES]


def draw_panel(axes: Axes, panel: Panel, lines: list[tuple[str, list[tuple[float, float]]]]) -> None:
    """One panel, as Grafana shows it, near enough to know what one will see."""
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    axes.grid(visible=True, alpha=0.25)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    scale = 100 if panel.unit == Unit.SHARE else 1
    unit = {Unit.SHARE: "%", Unit.SECONDS: "s", Unit.BYTES: "bytes", Unit.BYTES_PER_S: "B/s", Unit.PER_S: "/s"}
    axes.set_ylabel(unit.get(panel.unit, ""), fontsize=7)
    if not lines:
        where = f"\nonly in: {panel.only}" if panel.only else ""
        axes.text(0.5, 0.5, f"no data{where}", ha="center", va="center", transform=axes.transAxes, color="gray")
        axes.set_axis_off()
        return
    base: dict[float, float] = {}
    for name, points in lines:
        times = [datetime.fromtimestamp(at, tz=UTC) for at, _ in points]
        values = [value * scale for _, value in points]
        if panel.is_stacked:
            below = [base.get(at, 0.0) for at, _ in points]
            above = [low + value for low, value in zip(below, values, strict=True)]
            base |= {at: top for (at, _), top in zip(points, above, strict=True)}
            axes.fill_between(times, below, above, alpha=0.45, linewidth=0.8, label=name)
        else:
            axes.plot(times, values, linewidth=1.1, label=name)
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=6))
    bottom, top = axes.get_ylim()
    bottom = 0.0 if bottom > -0.06 * max(top, 1.0) else bottom
    axes.set_ylim(bottom, bottom + 1.3 * (max(top, 1e-9) - bottom))  # room for the legend
    axes.legend(fontsize=6, frameon=False, loc="upper left", ncols=2)


def draw_board(url: str, run: str, board: Board, path: Path, end_s: float) -> None:
    """One board, its panels where Grafana puts them."""
    rows = -(-len(board.panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(18, 3.1 * rows), layout="constrained")
    title = f"{board.title}  ({run}): {textwrap.shorten(board.description, 120)}"
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    for axes, panel in zip(grid.flat, board.panels, strict=False):
        draw_panel(axes, panel, answers(url, run, panel, end_s))
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> int:
    url, run, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    end_s = float(sys.argv[4]) if len(sys.argv) > 4 else time.time()
    for board in BOARDS:
        path = folder / f"board_{board.uid.removeprefix('ring-async-')}.png"
        draw_board(url, run, board, path, end_s)
        print(f"wrote {path}")  # noqa: T201 - this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())

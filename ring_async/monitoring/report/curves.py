"""The curves of a run: nine panels over policy versions, ten where versions were evaluated, as one PNG or one SVG each.

Owns: the panels and their look. Draws on figures of its own, never on pyplot's global ones, so that it may run in any
thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ring_async.monitoring.report.rows import Row, column, sources_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#ca8a04", "#0891b2", "#be185d", "#4d7c0f")
"""The first five colours can be told apart by people with colour blindness."""
_INK, _FAINT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_SMOOTHING_SHARE = 0.06
"""The bold line is a moving average over this share of the versions; the faint one is every batch."""

_LEGEND: dict[str, Any] = {"handlelength": 1.0, "columnspacing": 1.0, "handletextpad": 0.4}

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _FAINT,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


Mark = tuple[float, str]
"""A change that people made while the run went on: the policy version, and a word for the change."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: its name in the legend, a value for each row, and whether each is a dot of its own (for maxima)."""

    label: str
    values: list[float]
    is_dotted: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One small picture.

    Attributes:
        bound: a value drawn as a dashed line, with its name; None: none.
        limits: fixed range of the y axis, for quantities that have one.
    """

    title: str
    unit: str
    lines: list[Curve]
    bound: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    is_smoothed: bool = True


def panels(rows: Sequence[Row], config: Mapping[str, Any]) -> list[Panel]:
    """The panels to draw, in order of interest. Panels without any value are left out."""

    def lines(**keys: str) -> list[Curve]:
        return [Curve(label.replace("_", " "), column(rows, key)) for label, key in keys.items()]

    by_source = [row.get("reward_by_source") or {} for row in rows]
    rewards = [Curve(source, column(by_source, source)) for source in sources_of(rows)]
    if len(rewards) != 1:
        rewards = [*rewards, Curve("all", column(rows, "reward_mean"))]
    bound = (config.get("replay") or {}).get("max_staleness")
    if config.get("mode") == "sync":
        bound = 0
    budget = next((row["token_budget"] for row in rows if isinstance(row.get("token_budget"), int | float)), None)
    evaluations = [row.get("evaluation") or {} for row in rows]
    held_out = [Curve(name, column(evaluations, key)) for name, key in (("pass@1", "pass_at_1"), ("avg@k", "avg_at_k"))]
    drawn = [
        Panel("Reward", "mean of all scored", rewards),
        Panel("Held-out problems", "share solved", held_out, limits=(0, 1.03), is_smoothed=False),
        Panel("Entropy", "nats a token", lines(policy="entropy")),
        Panel("Effective sample size", "of 1", lines(all_tokens="effective_sample_size"), limits=(0, 1.03)),
        Panel(
            "Staleness",
            "versions",
            [
                Curve("mean", column(rows, "staleness_mean")),
                Curve("largest", column(rows, "staleness_max"), is_dotted=True),
            ],
            bound=None if bound is None else (float(bound), "bound"),
        ),
        Panel(
            "Loss tokens",
            "tokens a batch",
            lines(trained="loss_tokens"),
            bound=None if budget is None else (float(budget), "Φ"),
            is_smoothed=False,
        ),
        Panel("Throughput", "tokens/s", lines(generated="generated_tokens_per_s", trained="tokens_per_s")),
        Panel(
            "Learner's time",
            "s a batch",
            lines(training="step_s", waiting="wait_batch_s", publishing="publish_s"),
        ),
        Panel("Masked by the correction", "share of tokens", lines(masked="behavior_ratio_masked")),
        Panel("Buffer", "tokens", lines(kept="buffer_tokens"), is_smoothed=False),
    ]
    return [panel for panel in drawn if any(math.isfinite(value) for line in panel.lines for value in line.values)]


def draw_png(
    rows: Sequence[Row], path: Path, *, title: str, config: Mapping[str, Any], changes: Sequence[Mark] = ()
) -> None:
    """All panels in one picture, three in a row, with a line at everything that people changed meanwhile."""
    heading = f"{title}   {_subtitle(rows, config)}"
    draw_panels(panels(rows, config), column(rows, "policy_version"), path, title=heading, changes=changes)


def draw_panels(
    drawn: Sequence[Panel], versions: list[float], path: Path, *, title: str, changes: Sequence[Mark] = ()
) -> None:
    """Panels over the same policy versions in one picture, three in a row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    num_lines = max(1, math.ceil(len(drawn) / 3))
    with _styled():
        height = 2.7 * num_lines + 0.8
        figure = Figure(figsize=(13.5, height), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        figure.patch.set_facecolor("white")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
        for index, panel in enumerate(drawn):
            axes = figure.add_subplot(num_lines, 3, index + 1)
            _draw(axes, panel, versions)
            _mark(axes, changes, is_named=index == 0)
        figure.savefig(path)


def draw_svgs(rows: Sequence[Row], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`(title, SVG)` of every panel, for the page."""
    drawn = panels(rows, config)
    if not drawn:
        return []
    from matplotlib.figure import Figure

    pictures = []
    with _styled():
        for panel in drawn:
            figure = Figure(figsize=(4.6, 2.8), layout="constrained")
            figure.patch.set_alpha(0)
            _draw(figure.add_subplot(), panel, column(rows, "policy_version"))
            stream = io.StringIO()
            figure.savefig(stream, format="svg", metadata={"Date": None})
            pictures.append((panel.title, stream.getvalue()))
    return pictures


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def _draw(axes: Axes, panel: Panel, versions: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(panel.title)
    for index, line in enumerate(panel.lines):
        _draw_line(axes, line, versions, _PALETTE[index % len(_PALETTE)], is_smoothed=panel.is_smoothed)
    if panel.bound is not None:
        value, name = panel.bound
        axes.axhline(value, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{name} {_short_number(value)}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_FAINT,
        )
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    else:
        _roomy(axes, panel)
    axes.set_ylabel(panel.unit, fontsize=8)
    axes.set_xlabel("policy version", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    formatter: Callable[[float, int], str] = lambda value, _: _short_number(value)  # noqa: E731
    axes.yaxis.set_major_formatter(FuncFormatter(formatter))
    if len(panel.lines) > 1:
        # On the title's line, where it can cover no curve.
        axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=len(panel.lines), **_LEGEND)


def _mark(axes: Axes, changes: Sequence[Mark], *, is_named: bool) -> None:
    for version, name in changes:
        axes.axvline(version, color=_FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        if is_named:
            axes.annotate(
                name,
                (version, 0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 3),
                textcoords="offset points",
                fontsize=7,
                color=_FAINT,
                rotation=90,
                va="bottom",
            )


def _draw_line(axes: Axes, line: Curve, versions: list[float], colour: str, *, is_smoothed: bool) -> None:
    if line.label == "all":
        colour = _INK
    points = [(x, y) for x, y in zip(versions, line.values, strict=True) if math.isfinite(y)]
    if not points:
        return
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if line.is_dotted:
        axes.plot(xs, ys, color=colour, marker="o", markersize=2.6, linestyle="none", label=line.label)
        return
    if len(points) < 3:
        axes.plot(xs, ys, color=colour, marker="o", markersize=4, label=line.label)
        return
    window = max(1, round(len(points) * _SMOOTHING_SHARE)) if is_smoothed else 1
    if window > 1:
        axes.plot(xs, ys, color=colour, alpha=0.22, linewidth=0.9)
    axes.plot(xs, _moving_average(ys, window), color=colour, label=line.label)


def _moving_average(values: list[float], window: int) -> list[float]:
    """The mean over the last `window` values; for the first values, over as many as there are."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [
        (sums[end] - sums[max(0, end - window)]) / (end - max(0, end - window)) for end in range(1, len(values) + 1)
    ]


def _roomy(axes: Axes, panel: Panel) -> None:
    """Limits of the y axis, from zero if all values are positive, so that no small change looks like a cliff."""
    values = [value for line in panel.lines for value in line.values if math.isfinite(value)]
    if panel.bound is not None:
        values.append(panel.bound[0])
    low, high = min(0.0, *values), max(values)
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - (0.05 * span if low < 0 else 0.0), high + 0.12 * span)


def _subtitle(rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    words = [f"{len(rows)} policy versions"]
    if math.isfinite(wall_s := column(rows, "wall_s")[-1]):
        words.append(f"{wall_s:,.0f} s")
    if rule := (config.get("correction") or {}).get("rule"):
        words.append(f"{config.get('mode', 'async')}, {rule}")
    return "  ·  ".join(words)


def _short_number(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):g}{letter}"
    return f"{value:g}"

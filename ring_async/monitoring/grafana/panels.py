"""Boards, panels and queries as plain data, from which JSON for Grafana, pictures and tests are made.

Owns: the structs, and PromQL over declared metrics. Does not own which panels there are (`fleet`, `learning`, `data`),
nor Grafana's JSON (`build`).
Invariants: a query names its metrics by their attribute in `telemetry.metrics`, so one that is not declared cannot be
written; every query is of one run, `$run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram

RUN = 'run="$run"'
"""The matcher of the board's run."""
RATE = "$__rate_interval"
"""Grafana's window of a rate: at least four scrapes."""


class Unit(StrEnum):
    """Units by Grafana's names."""

    SHARE = "percentunit"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_S = "Bps"
    PER_S = "cps"
    NUMBER = "short"


@dataclass(frozen=True, slots=True)
class Query:
    """One line, or one for each value of its labels. `legend`: Grafana's template, `{{actor}}`."""

    expression: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a board.

    Attributes:
        title: what a reader asks, or sees.
        description: how to read it, and what to do about it.
        queries: of Prometheus.
        unit: of all its lines.
        is_stacked: whether the lines are parts of a whole.
        only: where the panel has data, if not in every run: "GPUs", "faults"; empty: always.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.NUMBER
    is_stacked: bool = False
    only: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """One screen for one reader."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def series(metric: Counter | Gauge, *matchers: str) -> str:
    """The selector of a counter or gauge: `ring_learner_steps_total{run="$run"}`."""
    return _selector(_name(metric), matchers)


def rate(metric: Counter, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """The increase a second of a counter, summed over all but the labels `by`."""
    return _rate(_name(metric), by, matchers)


def count_rate(metric: Histogram, *by: str) -> str:
    """How many values a second a histogram observed."""
    return _rate(f"{_name(metric)}_count", by)


def mean(metric: Histogram, *by: str) -> str:
    """The mean of what a histogram observed lately; nothing where it observed nothing."""
    return share(_rate(f"{_name(metric)}_sum", by), count_rate(metric, *by))


def whole_mean(metric: Histogram) -> str:
    """The mean of all that a histogram observed, for what is too rare to have a rate."""
    total, count = (f"sum({_selector(_name(metric) + part, ())})" for part in ("_sum", "_count"))
    return share(total, count)


def busy(metric: Histogram) -> str:
    """The share of a second that was spent in what a histogram of seconds observes."""
    return _rate(f"{_name(metric)}_sum", ())


def quantile(part: float, metric: Histogram, *by: str) -> str:
    """A quantile of what a histogram observed lately."""
    return f"histogram_quantile({part:g}, {_rate(f'{_name(metric)}_bucket', ('le', *by))})"


def quantiles(metric: Histogram, what: str) -> tuple[Query, Query]:
    """The median and the ninth decile of a histogram, over all actors."""
    return Query(quantile(0.5, metric), f"{what}, median"), Query(quantile(0.9, metric), f"{what}, 90 %")


def share(part: str, whole: str) -> str:
    """One figure over another; nothing where the other is 0."""
    return f"{part} / ({whole} > 0)"


def _rate(name: str, by: tuple[str, ...], matchers: tuple[str, ...] = ()) -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate({_selector(name, matchers)}[{RATE}]))"


def _name(metric: Counter | Gauge | Histogram) -> str:
    (family,) = metric.describe()
    return f"{family.name}_total" if isinstance(metric, Counter) else str(family.name)


def _selector(name: str, matchers: tuple[str, ...]) -> str:
    return f"{name}{{{', '.join((RUN, *matchers))}}}"

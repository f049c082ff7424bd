"""When a finding becomes an alert, and when the alert is over: so that it stands among the run's events.

    findings of each sample ──Alerts──▶ Notice(raised), Notice(cleared) ──▶ events.jsonl ──▶ marks on page and boards

Owns: the patience on both sides. Does not own the findings (`explain`), nor how an event is written.
Invariants: a finding is raised once and cleared once, however often it is said in between; what a person did (a pause)
and how the run ended are events of their own and no alerts; tips are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ring_async.core.explain.finding import Cause, Finding, Gravity

RAISE_AFTER = 3
"""Samples in a row in which a finding is said before it is an alert."""
CLEAR_AFTER = 12
"""Samples in a row in which it is not said before the alert is over."""
NO_ALERTS = frozenset({Cause.PAUSED, Cause.RUN_FAILED, Cause.DIVERGED, Cause.CLOCK_JUMPED})

Key = tuple[Cause, str]


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert that was raised, or is over."""

    finding: Finding
    is_raised: bool


@dataclass(slots=True)
class _Watched:
    finding: Finding
    num_said: int = 0
    num_unsaid: int = 0
    is_raised: bool = False


class Alerts:
    """The alerts of one run.

    alerts = Alerts()
    for notice in alerts.observe(explain(history)):    # once for each sample
        ...
    """

    def __init__(self) -> None:
        self._watched: dict[Key, _Watched] = {}

    def observe(self, findings: Iterable[Finding]) -> list[Notice]:
        """Take in what is said of one sample; returns what changed."""
        said = {(one.cause, one.who): one for one in findings if one.gravity < Gravity.TIP}
        notices: list[Notice] = []
        for key, finding in said.items():
            if finding.cause in NO_ALERTS:
                continue
            watched = self._watched.setdefault(key, _Watched(finding))
            watched.num_said, watched.num_unsaid = watched.num_said + 1, 0
            if watched.num_said >= RAISE_AFTER and not watched.is_raised:
                watched.is_raised, watched.finding = True, finding
                notices.append(Notice(finding, is_raised=True))
        for key in [key for key in self._watched if key not in said]:
            watched = self._watched[key]
            watched.num_said, watched.num_unsaid = 0, watched.num_unsaid + 1
            if not watched.is_raised or watched.num_unsaid >= CLEAR_AFTER:
                del self._watched[key]
            if watched.is_raised and watched.num_unsaid >= CLEAR_AFTER:
                notices.append(Notice(watched.finding, is_raised=False))
        return notices

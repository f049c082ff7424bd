"""The result of chaos: a line for each kind of strike, and what the audits say.

Owns: the figures, their text, and the file that collects strikes of several runs. Does not own how they come about.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ring_async.core.replay.plan_log import Violation
from ring_async.storage.audit import STORED_AND_ENDED, STORED_TWICE

DOUBLED_RULES = frozenset({STORED_TWICE, STORED_AND_ENDED})
"""Rules of the audit whose violation means that something is there twice; all others mean that something is missing."""
HEAD = ("fault", "struck", "phase", "tried", "recovered", "lost", "doubled", "bystanders restarted", "p50 s", "p95 s")


@dataclass(frozen=True, slots=True)
class Strike:
    """The outcome of one fault.

    Attributes:
        fault: what was done.
        victims: to whom, joined by ` + `.
        phase: what the run did meanwhile.
        recovered_s: seconds until the first useful product afterwards, as `recovery` defines it; None: not in time.
        bystanders: actors that were restarted though nobody struck them.
        lost: violations of the audit after this strike that were not there before it, and mean something missing.
        doubled: the same, for something that is there twice.
    """

    fault: str
    victims: str
    phase: str
    recovered_s: float | None
    bystanders: tuple[str, ...] = ()
    lost: int = 0
    doubled: int = 0


def num_doubled(violations: Iterable[Violation]) -> int:
    """How many of an audit's violations mean that something is there twice."""
    return sum(one.rule in DOUBLED_RULES for one in violations)


def rows_of(strikes: Iterable[Strike]) -> list[dict[str, Any]]:
    """A row for each kind of strike, sorted; seconds are of those that recovered."""
    by_kind: defaultdict[tuple[str, str, str], list[Strike]] = defaultdict(list)
    for strike in strikes:
        by_kind[strike.fault, strike.victims, strike.phase].append(strike)
    rows = []
    for (fault, victims, phase), alike in sorted(by_kind.items()):
        times = [strike.recovered_s for strike in alike if strike.recovered_s is not None]
        p50, p95 = (float(value) for value in np.percentile(times, (50, 95))) if times else (None, None)
        rows.append(
            {
                "fault": fault, "victims": victims, "phase": phase, "tried": len(alike), "recovered": len(times),
                "lost": sum(strike.lost for strike in alike), "doubled": sum(strike.doubled for strike in alike),
                "bystanders_restarted": sum(len(strike.bystanders) for strike in alike), "p50_s": p50, "p95_s": p95,
            }
        )  # fmt: skip
    return rows


def table_of(strikes: Iterable[Strike]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for row in rows_of(strikes):
        *cells, p50, p95 = row.values()
        seconds = ["–" if value is None else f"{value:.1f}" for value in (p50, p95)]
        lines.append(f"| {' | '.join(map(str, [*cells, *seconds]))} |")
    return "\n".join(lines)


def read_strikes(path: Path) -> list[Strike]:
    """The strikes that earlier runs appended to a file; none if there is no file."""
    if not path.exists():
        return []
    plain = [json.loads(line) for line in path.read_text().splitlines()]
    return [Strike(**one | {"bystanders": tuple(one["bystanders"])}) for one in plain]


def append_strikes(path: Path, strikes: Iterable[Strike]) -> None:
    """Add strikes to a file, a JSON line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(strike)) + "\n" for strike in strikes)


@dataclass(slots=True)
class ChaosReport:
    """All that a chaos run found.

    Attributes:
        violations: of the audit at the end.
        failed: trajectories that were given up, by cause.
        orphans: processes of the run that were left when it had ended.
        ending: how the run ended; empty: as it was asked to.
        num_versions: trained under fire.
    """

    seed: int
    strikes: list[Strike] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    orphans: tuple[int, ...] = ()
    ending: str = ""
    num_versions: int = 0
    num_trajectories: int = 0

    @property
    def num_doubled(self) -> int:
        return num_doubled(self.violations)

    @property
    def num_lost(self) -> int:
        return len(self.violations) - self.num_doubled

    @property
    def is_good(self) -> bool:
        """Everything recovered, nothing is missing or there twice, nothing is left, and the run ended as asked."""
        recovered = all(strike.recovered_s is not None for strike in self.strikes)
        return recovered and not self.violations and not self.orphans and not self.ending

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seed": self.seed,
            "is_good": self.is_good,
            "tried": len(self.strikes),
            "lost": self.num_lost,
            "doubled": self.num_doubled,
            "violations": [violation._asdict() for violation in self.violations],
            "failed": self.failed,
            "orphans": list(self.orphans),
            "ending": self.ending,
            "policy_versions": self.num_versions,
            "trajectories": self.num_trajectories,
            "rows": rows_of(self.strikes),
        }

    def markdown(self) -> str:
        """The table, for people and for docs."""
        given_up = ", ".join(f"{cause} {number}" for cause, number in sorted(self.failed.items())) or "none"
        lines = [
            table_of(self.strikes),
            "",
            f"{len(self.strikes)} strikes, seed {self.seed}; {self.num_versions} versions and "
            f"{self.num_trajectories:,} trajectories under fire. Lost {self.num_lost}, doubled {self.num_doubled}, "
            f"given up: {given_up}; processes left: {len(self.orphans)}.",
        ]
        if self.ending:
            lines.append(f"The run did not end as it was asked to: {self.ending}")
        lines += [f"  {rule}: {subject}: {detail}" for rule, subject, detail in self.violations[:20]]
        return "\n".join(lines)

"""The result of a chaos run: a line for each kind of strike, and what the audit says of the whole.

Owns: the figures and their text. Does not own how they come about.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ring_async.chaos.plan import Injection
from ring_async.storage.audit import STORED_AND_ENDED, STORED_TWICE

DOUBLED_RULES = frozenset({STORED_TWICE, STORED_AND_ENDED})
"""Rules of the audit whose violation means that something is there twice; all others mean that something is missing."""


@dataclass(frozen=True, slots=True)
class Strike:
    """The outcome of one injection.

    Attributes:
        recovered_s: seconds from the strike to the first useful product of the last successor; None: not in time.
        bystanders: actors that were restarted though nobody struck them.
    """

    injection: Injection
    recovered_s: float | None
    bystanders: tuple[str, ...] = ()


@dataclass(slots=True)
class ChaosReport:
    """All that a chaos run found.

    Attributes:
        violations: of the audit: rule, subject, detail.
        failed: trajectories that were given up, by cause.
        orphans: processes of the run that were left when it had ended.
        ending: how the run ended; empty: as it was asked to.
        num_versions: trained under fire.
    """

    seed: int
    strikes: list[Strike] = field(default_factory=list)
    violations: list[tuple[str, str, str]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    orphans: tuple[int, ...] = ()
    ending: str = ""
    num_versions: int = 0
    num_trajectories: int = 0

    @property
    def num_doubled(self) -> int:
        return sum(rule in DOUBLED_RULES for rule, _, _ in self.violations)

    @property
    def num_lost(self) -> int:
        return len(self.violations) - self.num_doubled

    @property
    def is_good(self) -> bool:
        """Everything recovered, nothing is missing or there twice, nothing is left, and the run ended as asked."""
        recovered = all(strike.recovered_s is not None for strike in self.strikes)
        return recovered and not self.violations and not self.orphans and not self.ending

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind of strike, in order of first appearance; seconds are of those that recovered."""
        by_kind: defaultdict[tuple[str, str, str], list[Strike]] = defaultdict(list)
        for strike in self.strikes:
            by_kind[strike.injection.kind].append(strike)
        rows = []
        for (fault, victims, phase), strikes in sorted(by_kind.items()):
            times = [strike.recovered_s for strike in strikes if strike.recovered_s is not None]
            p50, p95 = (float(value) for value in np.percentile(times, (50, 95))) if times else (None, None)
            rows.append(
                {
                    "fault": fault, "victims": victims, "phase": phase, "tried": len(strikes), "recovered": len(times),
                    "bystanders_restarted": sum(len(strike.bystanders) for strike in strikes),
                    "p50_s": p50, "p95_s": p95,
                }
            )  # fmt: skip
        return rows

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seed": self.seed,
            "is_good": self.is_good,
            "tried": len(self.strikes),
            "lost": self.num_lost,
            "doubled": self.num_doubled,
            "violations": [dict(zip(("rule", "subject", "detail"), one, strict=True)) for one in self.violations],
            "failed": self.failed,
            "orphans": list(self.orphans),
            "ending": self.ending,
            "policy_versions": self.num_versions,
            "trajectories": self.num_trajectories,
            "rows": self.rows(),
        }

    def markdown(self) -> str:
        """The table, for people and for docs."""
        head = ("fault", "struck", "phase", "tried", "recovered", "bystanders restarted", "p50 s", "p95 s")
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for row in self.rows():
            seconds = [f"{row[key]:.1f}" if row[key] is not None else "–" for key in ("p50_s", "p95_s")]
            cells = [row[key] for key in ("fault", "victims", "phase", "tried", "recovered", "bystanders_restarted")]
            lines.append(f"| {' | '.join(map(str, [*cells, *seconds]))} |")
        given_up = ", ".join(f"{cause} {number}" for cause, number in sorted(self.failed.items())) or "none"
        lines += [
            "",
            f"{len(self.strikes)} strikes, seed {self.seed}; {self.num_versions} versions and "
            f"{self.num_trajectories:,} trajectories under fire. Lost {self.num_lost}, doubled {self.num_doubled}, "
            f"given up: {given_up}; processes left: {len(self.orphans)}.",
        ]
        if self.ending:
            lines.append(f"The run did not end as it was asked to: {self.ending}")
        lines += [f"  {rule}: {subject}: {detail}" for rule, subject, detail in self.violations[:20]]
        return "\n".join(lines)

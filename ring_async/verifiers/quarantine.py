"""When a verifier that keeps failing is taken out of service. Pure: outcomes in, decisions out.

Owns: the error rate of each verifier over its latest verdicts. Does not own: what follows (its domain is paused, the
rest trains), or time: a person or a swap releases a quarantined verifier.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class QuarantinePolicy:
    """Thresholds.

    Args:
        max_error_rate: share of failures among the window's verdicts above which a verifier is quarantined.
        window: latest verdicts looked at.
        min_verdicts: fewer are never judged, so that one early failure decides nothing.

    Raises:
        ValueError: a threshold that could never, or always, trip.
    """

    max_error_rate: float = 0.5
    window: int = 64
    min_verdicts: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_rate < 1:
            raise ValueError(f"max_error_rate: {self.max_error_rate} must be in [0, 1); at 1 it would never trip")
        if not 1 <= self.min_verdicts <= self.window:
            raise ValueError(f"min_verdicts: {self.min_verdicts} must be in [1, window = {self.window}]")


@dataclass(frozen=True, slots=True)
class VerifierQuarantined:
    """A verifier passed its error threshold; `causes` counts the window's failures, most frequent first."""

    name: str
    version: str
    error_rate: float
    num_verdicts: int
    causes: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Record:
    outcomes: deque[str | None]
    quarantined: VerifierQuarantined | None = None


@dataclass(slots=True)
class Quarantine:
    """Follows every verifier, by name and version: a new version starts with a clean record."""

    policy: QuarantinePolicy = field(default_factory=QuarantinePolicy)
    _records: dict[tuple[str, str], _Record] = field(default_factory=dict)

    def record(self, name: str, version: str, cause: str | None, count: int = 1) -> VerifierQuarantined | None:
        """Take in `count` outcomes: a failure's cause, or None for verdicts.

        Returns:
            The decision, once, when this outcome trips the threshold; else None.
        """
        record = self._records.setdefault((name, version), _Record(deque(maxlen=self.policy.window)))
        record.outcomes.extend([cause] * count)
        if record.quarantined is not None or len(record.outcomes) < self.policy.min_verdicts:
            return None
        failures = Counter(outcome for outcome in record.outcomes if outcome is not None)
        error_rate = failures.total() / len(record.outcomes)
        if error_rate <= self.policy.max_error_rate:
            return None
        record.quarantined = VerifierQuarantined(
            name, version, error_rate, len(record.outcomes), tuple(failures.most_common())
        )
        return record.quarantined

    def error_rate(self, name: str, version: str) -> float:
        """Share of failures in the window; 0 before the first verdict."""
        record = self._records.get((name, version))
        if record is None or not record.outcomes:
            return 0.0
        return sum(outcome is not None for outcome in record.outcomes) / len(record.outcomes)

    def is_quarantined(self, name: str, version: str) -> bool:
        record = self._records.get((name, version))
        return record is not None and record.quarantined is not None

    @property
    def quarantined(self) -> tuple[VerifierQuarantined, ...]:
        """All verifiers out of service, for `status`."""
        return tuple(record.quarantined for record in self._records.values() if record.quarantined is not None)

    def release(self, name: str, version: str) -> bool:
        """Put a verifier back into service with a clean record. Returns whether it was quarantined."""
        record = self._records.pop((name, version), None)
        return record is not None and record.quarantined is not None

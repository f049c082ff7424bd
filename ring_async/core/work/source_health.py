"""Whether a source of prompts works: one odd prompt is passed over, a source of nothing else is set aside.

Owns: the count of failures in a row, and the decision. Does not own what is set aside (`mixture`), or the events.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_FAILURES_IN_A_ROW = 64
"""More, one after another and without one prompt that worked, are the source's fault and not a prompt's."""


@dataclass(slots=True)
class SourceHealth:
    """Failures of each source since its last prompt that worked.

    health.failed("math", "too long")     # None, until it is the 64th in a row: then the reason to set `math` aside
    health.worked("math")                 # counts from 0 again
    """

    what: str
    """What failed, in words for the reason: `prompts could not be made`."""
    _in_a_row: dict[str, int] = field(default_factory=dict)

    def worked(self, source: str) -> None:
        self._in_a_row.pop(source, None)

    def failed(self, source: str, reason: str) -> str | None:
        """Count a failure; returns why the source should be set aside, if it should."""
        self._in_a_row[source] = number = self._in_a_row.get(source, 0) + 1
        if number < MAX_FAILURES_IN_A_ROW:
            return None
        return f"{number} {self.what} one after another, the last: {reason}"

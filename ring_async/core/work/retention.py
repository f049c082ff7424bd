"""How long an unfinished response may be carried on: until its oldest token could no longer be trained.

    begin("g7/0", version 3) ─▶ … version 8 is in force, max_staleness 4 ─▶ overdue(8) names "g7/0"

Owns: the decision. Under asynchronous training a response is not cut off at a step: it goes on under newer weights for
as long as `max_staleness` allows. One beyond it would be sampled to its end and then be evicted, so it is given up, and
its prompt answered anew under the present weights (C3PO++'s purge). Does not own aborting it, nor what was handed over.
Invariant: a response whose oldest token may still be trained is never overdue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ring_async.types import PolicyVersion


@dataclass(slots=True)
class Retention:
    """Attributes:
    max_staleness: versions, from a response's oldest token; None: responses are carried on whatever their age.
    """

    max_staleness: int | None
    _oldest: dict[str, PolicyVersion] = field(default_factory=dict)

    def begin(self, trajectory_id: str, oldest: PolicyVersion) -> None:
        """A response is under way; none of its tokens is of weights older than `oldest`."""
        self._oldest[trajectory_id] = oldest

    def end(self, trajectory_id: str) -> None:
        self._oldest.pop(trajectory_id, None)

    def is_overdue(self, oldest: PolicyVersion, newest: PolicyVersion) -> bool:
        """Whether a response with a token of version `oldest` can no longer be trained once `newest` is published."""
        return self.max_staleness is not None and newest.number - oldest.number > self.max_staleness

    def overdue(self, newest: PolicyVersion) -> tuple[str, ...]:
        """The responses that may be beyond the bound: look at their tokens before giving them up."""
        return tuple(key for key, oldest in self._oldest.items() if self.is_overdue(oldest, newest))

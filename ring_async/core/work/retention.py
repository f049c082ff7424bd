"""How long an unfinished response may be carried on: until its oldest token could no longer be trained.

    goes_on("g7/0", version 3, version 3) ─▶ … version 8 is in force, max_staleness 4 ─▶ overdue(8) names "g7/0"

Owns: the decision. Under asynchronous training a response is not cut off at a step: it goes on under newer weights for
as long as `max_staleness` allows. One beyond it would be sampled to its end and then be evicted, so it is given up, and
its prompt answered anew under the present weights (C3PO++'s purge). Does not own aborting it, nor what was handed over.
Invariants: a response whose oldest token may still be trained is never overdue; each is given up once at most. One that
takes longer than `max_staleness` versions would be sampled for ever; it ends instead, and is evicted on record.
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
    _given_up: set[str] = field(default_factory=set)

    def goes_on(self, trajectory_id: str, oldest: PolicyVersion, newest: PolicyVersion) -> bool:
        """Whether a response whose oldest token is of version `oldest` goes on from its tokens under version `newest`.

        Else it is given up, and answered anew.
        """
        is_overdue = self._is_overdue(trajectory_id, oldest, newest)
        if is_overdue:
            self._given_up.add(trajectory_id)
        self._oldest[trajectory_id] = newest if is_overdue else oldest
        return not is_overdue

    def end(self, trajectory_id: str) -> None:
        self._oldest.pop(trajectory_id, None)
        self._given_up.discard(trajectory_id)

    def _is_overdue(self, trajectory_id: str, oldest: PolicyVersion, newest: PolicyVersion) -> bool:
        """Whether a response with a token of version `oldest` can no longer be trained once `newest` is published."""
        if self.max_staleness is None or trajectory_id in self._given_up:
            return False
        return newest.number - oldest.number > self.max_staleness

    def overdue(self, newest: PolicyVersion) -> tuple[str, ...]:
        """The responses that may be beyond the bound: look at their tokens before giving them up."""
        return tuple(key for key, oldest in self._oldest.items() if self._is_overdue(key, oldest, newest))

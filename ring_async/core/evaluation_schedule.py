"""Which published versions an evaluator takes up.

Owns: the rule. The first version heard of is evaluated (the starting point, or what a restart interrupted), then every
one with which the count of versions passes a multiple of `every_versions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ring_async.types import PolicyVersion


@dataclass(slots=True)
class EvaluationSchedule:
    """Args: `every_versions` ≥ 1."""

    every_versions: int
    _newest: PolicyVersion | None = None

    def is_due(self, version: PolicyVersion) -> bool:
        """Hear of a published version; whether it is to be evaluated. One heard before, or older, never is."""
        before, every = self._newest, self.every_versions
        if before is None:
            self._newest = version
            return True
        if version <= before:
            return False
        self._newest = version
        # A new lineage goes on from a checkpoint, so it may pass again what the lost one had passed.
        passed = before.number if version.incarnation == before.incarnation else version.number - 1
        return version.number // every > passed // every

    @property
    def next_number(self) -> int:
        """Number of the version that will be due next; 0 before any was heard of."""
        return 0 if self._newest is None else (self._newest.number // self.every_versions + 1) * self.every_versions

"""The schedule of evaluations: which published versions an evaluator evaluates.

Owns: the rule. The first version that an evaluator hears of is due (the starting point, or the one that a restart
interrupted), then each version with which the version number passes a multiple of `every_versions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ring_async.types import PolicyVersion


@dataclass(slots=True)
class EvaluationSchedule:
    """Says which versions are due. Args: `every_versions` ≥ 1."""

    every_versions: int
    _newest: PolicyVersion | None = None

    def is_due(self, version: PolicyVersion) -> bool:
        """Note a published version; returns whether it is to be evaluated. A version that is not newer never is."""
        before, every = self._newest, self.every_versions
        if before is None:
            self._newest = version
            return True
        if version <= before:
            return False
        self._newest = version
        # A new incarnation goes on from a checkpoint, so it may pass a multiple that the lost one had passed already.
        passed = before.number if version.incarnation == before.incarnation else version.number - 1
        return version.number // every > passed // every

    @property
    def next_number(self) -> int:
        """The number of the version that will be due next; 0 before any version was noted."""
        return 0 if self._newest is None else (self._newest.number // self.every_versions + 1) * self.every_versions

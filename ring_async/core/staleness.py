"""Staleness: the age of tokens in versions, also across restarts of the learner.

Owns: the lineage of policy versions and the three measures of a trajectory's staleness. Does not own the bound.
Invariants: staleness is never negative; a token of a lost lineage never counts as newer than the point where the
surviving lineage left it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ring_async.types import PolicyVersion, Segment, TrajectoryHeader

StalenessMeasure = Literal["oldest", "newest", "mean"]


class Lineage(msgspec.Struct, frozen=True):
    """The version number at which each incarnation of the learner left its predecessor: `forks[i] = (incarnation,
    number)`.

    A version of an earlier incarnation is comparable with the surviving one only up to the fork, so its tokens are
    measured from there. A restart that trains the logged plans again, in order, makes the lost versions anew from the
    same tokens: its fork is the last version those plans make, not the checkpoint's. Were it the checkpoint's, every
    restart would evict a buffer that is as fresh as before.
    """

    forks: tuple[tuple[int, int], ...] = ()

    @property
    def incarnation(self) -> int:
        """The newest incarnation known."""
        return self.forks[-1][0] if self.forks else 0

    def forked(self, incarnation: int, number: int) -> Lineage:
        """The lineage after the learner came back as `incarnation` and left the old one at version `number`.

        Raises:
            ValueError: the incarnation is not newer than those known.
        """
        if incarnation <= self.incarnation:
            raise ValueError(f"learner incarnation {incarnation} is not newer than {self.incarnation}")
        return Lineage((*self.forks, (incarnation, number)))

    def number(self, version: PolicyVersion) -> int:
        """The number of the newest version in the surviving lineage that `version` descends from or is."""
        if not self.forks or version.incarnation >= self.forks[-1][0]:
            return version.number
        lost_at = (number for incarnation, number in self.forks if incarnation > version.incarnation)
        return min(version.number, *lost_at)


def birth_number(segments: Sequence[Segment], lineage: Lineage, measure: StalenessMeasure = "oldest") -> int:
    """The version number that a trajectory's staleness counts from.

    `mean` weighs segments by their tokens and rounds down, so that staleness rounds up.
    """
    if len(segments) == 1:
        return lineage.number(segments[0].policy_version)
    numbers = [lineage.number(segment.policy_version) for segment in segments]
    if measure == "oldest":
        return min(numbers)
    if measure == "newest":
        return max(numbers)
    lengths = [segment.end - segment.start for segment in segments]
    return sum(length * number for length, number in zip(lengths, numbers, strict=True)) // sum(lengths)


def birth_numbers(
    trajectories: Sequence[TrajectoryHeader], lineage: Lineage, measure: StalenessMeasure = "oldest"
) -> list[int]:
    """The `birth_number` of each trajectory."""
    if lineage.forks:
        return [birth_number(one.segments, lineage, measure) for one in trajectories]
    return [  # most responses have one segment of the only lineage there is
        segments[0].policy_version.number if len(segments := one.segments) == 1
        else birth_number(segments, lineage, measure)
        for one in trajectories
    ]  # fmt: skip


def staleness(
    learner: PolicyVersion, segments: Sequence[Segment], lineage: Lineage, measure: StalenessMeasure = "oldest"
) -> int:
    """The number of versions between the learner's weights and those that sampled a trajectory."""
    return max(0, learner.number - birth_number(segments, lineage, measure))

"""One buffered group as planning sees it: its record, its progress, and the values that follow from both.

Owns: these values. Does not own where a group stands among others (`held_groups`), nor what becomes of it (`buffer`).
Invariant: the values are those of the last `take_stock` and `count_births`.
"""

from __future__ import annotations

import msgspec

from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.core.staleness import Lineage, StalenessMeasure, birth_numbers
from ring_async.trajectory_states import TrajectoryStatus


class HeldGroup(msgspec.Struct):
    """A buffered group.

    `births[k]` and `oldest[k]` are the version numbers that the staleness of trajectory k counts from: under the
    configured measure, and from its oldest token. `trainable`: loss tokens that may still be trained, over all their
    uses; `num_open`: trajectories that may still be trained; `is_used`: some trajectory was trained to its end and is
    not retired yet; `is_overused`: an open trajectory was used `max_reuse` times, which was lowered meanwhile.

    Example:
        A group of two responses of 6 loss tokens each, all sampled by version 3: `num_tokens` (6, 6), `births` [3, 3],
        `trainable` 12 with `max_reuse` 1. After a batch took 4 tokens of the first response, `trainable` is 8.
    """

    record: GroupRecord
    progress: GroupProgress
    num_tokens: tuple[int, ...]
    births: list[int] = []
    oldest: list[int] = []
    trainable: int = 0
    num_open: int = 0
    is_used: bool = False
    is_overused: bool = False

    @property
    def is_open(self) -> bool:
        """Whether some trajectory may still be trained."""
        return self.num_open > 0

    def count_births(self, lineage: Lineage, measure: StalenessMeasure) -> None:
        """Compute `births` and `oldest` anew, for a lineage of the learner."""
        trajectories = self.record.header.trajectories
        self.oldest = birth_numbers(trajectories, lineage)
        self.births = self.oldest if measure == "oldest" else birth_numbers(trajectories, lineage, measure)

    def take_stock(self, max_reuse: int) -> None:
        """Compute the other values anew, after progress or bounds changed."""
        trainable = num_open = 0
        is_used = is_overused = False
        for num_tokens, one in zip(self.num_tokens, self.progress, strict=True):
            if one.is_open:
                num_open += 1
                trainable += (max_reuse - one.num_uses) * num_tokens - one.position
                is_overused = is_overused or one.num_uses >= max_reuse
            elif one.state == TrajectoryStatus.CONSUMED:
                is_used = True
        self.trainable, self.num_open = trainable, num_open
        self.is_used, self.is_overused = is_used, is_overused

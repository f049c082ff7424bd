"""Where a rank stands among the ranks of a Megatron learner: numbers alone, no process group.

Owns: the arithmetic of Megatron-core's order `tp-ep-dp-pp`. Does not own the groups (`groups`).

    ranks of one pipeline stage      0 1 2 3        tensor 2, data 2, expert 2
    tensor rank                      0 1 0 1
    data rank (rows of its own)      0 0 1 1
    expert rank                      0 1 0 1        experts are whole: tensor ranks share them out too

Invariant: all ranks compute the same places, so that each knows what every other one holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ring_async.config.learning import ParallelSection


@dataclass(frozen=True, slots=True)
class Place:
    """One rank's place.

    Attributes:
        rank: of the learner.
        tensor, data, pipeline, expert: its number in each group.
        num_tensor, num_pipeline, num_expert: ranks of these groups.
    """

    rank: int
    tensor: int
    data: int
    pipeline: int
    expert: int
    num_tensor: int
    num_pipeline: int
    num_expert: int

    @property
    def is_first_stage(self) -> bool:
        return self.pipeline == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline == self.num_pipeline - 1

    @property
    def leads_rows(self) -> bool:
        """Whether this rank reports on its rows: one of those that share them, which has their loss."""
        return self.tensor == 0 and self.is_last_stage


def place_of(rank: int, parallel: ParallelSection) -> Place:
    """The place of a rank."""
    pipeline, in_stage = divmod(rank, parallel.tensor * parallel.data)
    return Place(
        rank=rank,
        tensor=in_stage % parallel.tensor,
        data=parallel.data_rank_of(rank),
        pipeline=pipeline,
        expert=in_stage % parallel.expert,
        num_tensor=parallel.tensor,
        num_pipeline=parallel.pipeline,
        num_expert=parallel.expert,
    )

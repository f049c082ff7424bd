"""The part of a batch that one data-parallel rank trains on.

    plan and rows of all ranks ──batch_of_rank(rank)──▶ the rank's plan and rows, and its RankShare of the loss tokens

Owns: which rows, sequences and loss tokens belong to a rank. Does not own: which sequence lies on which rank
(`packing`).

Invariants: the parts of all ranks are disjoint and cover the batch; all ranks get equally many rows; `token_budget`
stays the global Φ, which every rank divides its loss by, so that gradients summed over ranks are those of the batch.
"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from ring_async.batches import BatchPlan, PackedBatch


class RankShare(msgspec.Struct, frozen=True):
    """A rank's share of the batch's loss tokens, which are counted in row order over the ranks.

    Attributes:
        rank: 0 … num_ranks − 1.
        num_ranks: data-parallel ranks of the plan.
        num_loss_tokens: of this rank.
        first_loss_token: number of loss tokens of the ranks before it; an argument of `assign_minibatches`.
    """

    rank: int
    num_ranks: int
    num_loss_tokens: int
    first_loss_token: int


def rows_of_rank(plan: BatchPlan, rank: int) -> range:
    """The rows of the batch that are this rank's: `[rank · B/R, (rank + 1) · B/R)`.

    Raises:
        ValueError: the plan has no such rank, or its rows cannot be divided equally.
    """
    if not 0 <= rank < plan.num_ranks:
        raise ValueError(f"plan {plan.plan_number}: rank {rank} of {plan.num_ranks}")
    if plan.num_rows % plan.num_ranks:
        raise ValueError(f"plan {plan.plan_number}: {plan.num_rows} rows for {plan.num_ranks} ranks")
    num_rows = plan.num_rows // plan.num_ranks
    return range(rank * num_rows, (rank + 1) * num_rows)


def plan_of_rank(plan: BatchPlan, rank: int) -> BatchPlan:
    """The plan of a rank's rows alone: its sequences in the plan's order, rows counted from 0, one rank.

    `token_budget` is still that of the whole batch.

    Raises:
        ValueError: as `rows_of_rank`.
    """
    rows = rows_of_rank(plan, rank)
    sequences = tuple(
        msgspec.structs.replace(sequence, row=sequence.row - rows.start)
        for sequence in plan.sequences
        if sequence.row in rows
    )
    return msgspec.structs.replace(plan, num_rows=len(rows), num_ranks=1, sequences=sequences)


def batch_of_rank(batch: PackedBatch, rank: int) -> tuple[PackedBatch, RankShare]:
    """The batch of one rank (its rows under a plan of their own), and its share of the loss tokens.

    Arrays are views of the batch's, except `sequence_ids`, which count the rank's own sequences.

    Raises:
        ValueError: as `rows_of_rank`.
    """
    plan = batch.plan
    rows = rows_of_rank(plan, rank)
    own = PackedBatch.from_buffers(
        plan_of_rank(plan, rank), [np.asarray(column)[rows.start : rows.stop] for column in batch.buffers]
    )
    number = np.zeros(len(plan.sequences) + 1, np.int32)
    is_own = [sequence.row in rows for sequence in plan.sequences]
    number[1:] = np.where(is_own, np.cumsum(is_own), 0)
    share = RankShare(
        rank=rank,
        num_ranks=plan.num_ranks,
        num_loss_tokens=int(own.loss_mask.sum()),
        first_loss_token=int(batch.loss_mask[: rows.start].sum()),
    )
    return dataclasses.replace(own, sequence_ids=number[own.sequence_ids]), share

"""Packing: rows of one fixed shape, filled with prompts and responses, balanced over learner ranks.

Owns: the place of each sequence (`lay_out`) and the arrays of a packed batch (`pack_batch`). Does not own the choice of
sequences (`core.replay`).
Invariants: every rank has the same number of rows; a sequence lies whole in one row; rows hold at most
`token_capacity` tokens; the packed loss mask is exactly the plan's intervals.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ring_async.batches import PACKED_COLUMNS, BatchPlan, PackedBatch
from ring_async.core.staleness import Lineage
from ring_async.types import Group, Int32, Trajectory

ATTENTION_COST_PER_TOKEN = 1.0 / 12_288.0
"""Weight of the quadratic part: attention costs as much as all else at about 6 · hidden size tokens (hidden 2,048)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The row and offset of each sequence.

    Attributes:
        rows, offsets: one entry per sequence, in the order given.
        num_rows: a multiple of the number of ranks.
        rank_costs: estimated compute of each rank, in the unit of `sequence_cost`.
    """

    rows: tuple[int, ...]
    offsets: tuple[int, ...]
    num_rows: int
    rank_costs: tuple[float, ...]


def sequence_cost(num_tokens: int) -> float:
    """Estimated compute of a sequence of n tokens: `n + c · n²`, in units of one token's cost without attention."""
    return num_tokens + ATTENTION_COST_PER_TOKEN * num_tokens * num_tokens


def lay_out(lengths: Sequence[int], token_capacity: int, num_ranks: int) -> Layout:
    """Place sequences into rows and rows onto ranks.

    Best fit, longest first; then rows go to ranks, costliest first, to the rank with the least compute that still has
    room. Rows are added, empty, until the ranks have equal counts.

    Raises:
        ValueError: a sequence is longer than a row.
    """
    if lengths and max(lengths) > token_capacity:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into a row of {token_capacity}")
    free: list[int] = []  # free tokens << 32 | bin, ascending: one integer compares faster than a pair
    bins: list[list[int]] = []
    # sequences of equal length stay in order
    descending = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    place = 0
    while place < len(descending):
        length = lengths[descending[place]] << 32
        at = bisect.bisect_left(free, length)
        if at < len(free):
            room = free.pop(at)
        else:
            room = token_capacity << 32 | len(bins)
            bins.append([])
        members = bins[room & 0xFFFFFFFF]
        while room >= length and place < len(descending) and lengths[descending[place]] << 32 == length:
            # for the next sequence of this length, the same row is the best fit again
            members.append(descending[place])
            room -= length
            place += 1
        bisect.insort(free, room)
    rows_per_rank = max(1, -(-len(bins) // num_ranks))
    costs = [sum([sequence_cost(lengths[i]) for i in members]) for members in bins]
    rank_costs = [0.0] * num_ranks
    rank_rows = [0] * num_ranks
    rows, offsets = [0] * len(lengths), [0] * len(lengths)
    for row in sorted(range(len(bins)), key=lambda row: (-costs[row], row)):
        rank = min((r for r in range(num_ranks) if rank_rows[r] < rows_per_rank), key=lambda r: (rank_costs[r], r))
        position = rank * rows_per_rank + rank_rows[rank]
        rank_rows[rank] += 1
        rank_costs[rank] += costs[row]
        offset = 0
        for i in bins[row]:
            rows[i], offsets[i] = position, offset
            offset += lengths[i]
    return Layout(tuple(rows), tuple(offsets), rows_per_rank * num_ranks, tuple(rank_costs))


def padding_fraction(plan: BatchPlan) -> float:
    """Share of a batch's positions that hold no token."""
    used = sum(sequence.num_prompt_tokens + sequence.num_response_tokens for sequence in plan.sequences)
    return 1.0 - used / (plan.num_rows * plan.token_capacity)


def pack_batch(plan: BatchPlan, groups: Iterable[Group], lineage: Lineage | None = None) -> PackedBatch:
    """Fill the rows that `plan` lays out with the tokens of `groups`.

    Raises:
        ValueError: a planned trajectory is not among the groups, or differs from the plan.

    An optional column is 0 for the tokens of groups without it.
    """
    lineage = lineage or Lineage()
    found: dict[str, tuple[Int32, float, Trajectory]] = {
        trajectory.header.trajectory_id: (group.prompt_ids, group.header.sampling.temperature, trajectory)
        for group in groups
        for trajectory in group
    }
    batch = empty_batch(plan)
    optional = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.columns.items()}
    input_ids, position_ids, sequence_ids, loss_mask, logprobs, advantages, token_staleness, temperatures = (
        np.asarray(array).reshape(-1) for array in batch.buffers[: len(PACKED_COLUMNS)]
    )
    positions = np.arange(plan.token_capacity, dtype=np.int32)
    learner_number = plan.policy_version.number
    for index, sequence in enumerate(plan.sequences):
        if sequence.trajectory_id not in found:
            raise ValueError(f"plan {plan.plan_number}: trajectory {sequence.trajectory_id} is not in the buffer")
        prompt_ids, temperature, trajectory = found[sequence.trajectory_id]
        num_tokens = trajectory.header.num_tokens
        if (prompt_ids.size, num_tokens) != (sequence.num_prompt_tokens, sequence.num_response_tokens):
            raise ValueError(f"plan {plan.plan_number}: trajectory {sequence.trajectory_id} is not the planned one")
        first = sequence.row * plan.token_capacity + sequence.offset
        start = first + prompt_ids.size
        end = start + num_tokens
        input_ids[first:start] = prompt_ids
        input_ids[start:end] = trajectory.response_ids
        position_ids[first:end] = positions[: end - first]
        sequence_ids[first:end] = index + 1
        low, high = sequence.interval.start, sequence.interval.end
        loss_mask[start + low : start + high] = trajectory.loss_mask[low:high]
        logprobs[start:end] = trajectory.behavior_logprobs
        advantages[start:end] = sequence.advantage
        for segment in trajectory.header.segments:
            age = max(0, learner_number - lineage.number(segment.policy_version))
            token_staleness[start + segment.start : start + segment.end] = age
        temperatures[first:end] = temperature
        for name, values in trajectory.columns.items():
            optional[name][start:end] = values
    return batch


def empty_batch(plan: BatchPlan) -> PackedBatch:
    """A batch of padding alone. Its required arrays share one block, since one large allocation causes far fewer page
    faults.
    """
    num_positions = plan.num_rows * plan.token_capacity
    block = np.zeros(29 * num_positions, np.uint8)
    words = block[: 28 * num_positions].reshape(7, plan.num_rows, 4 * plan.token_capacity)
    integers, floats = words[:4].view(np.int32), words[4:].view(np.float32)
    floats[2].fill(1.0)
    return PackedBatch(
        plan=plan,
        input_ids=integers[0],
        position_ids=integers[1],
        sequence_ids=integers[2],
        loss_mask=block[28 * num_positions :].reshape(plan.num_rows, plan.token_capacity),
        behavior_logprobs=floats[0],
        advantages=floats[1],
        token_staleness=integers[3],
        temperatures=floats[2],
        columns={
            column.name: np.zeros(column.shape(plan.num_rows, plan.token_capacity), column.dtype)
            for column in plan.columns
        },
    )

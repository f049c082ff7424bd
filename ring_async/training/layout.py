"""From packed rows to flat microbatches: which tokens are computed, which are scored, which attend to which.

Owns: the choice of sequences for one forward, prompts shared among the responses that begin with them, and index
arrays between rows `[B, C]`, flat tokens `[U]` and scored tokens `[T]`. numpy only; no model.
Invariants: a token's hidden state depends on its own sequence's earlier tokens alone; padding is never computed; tokens
behind the last scored one of a sequence are not computed, since causal attention makes nothing scored depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ring_async.batches import PackedBatch, PackedSequence
from ring_async.core.rank_batches import RankShare

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SAME_BLOCK_RATIO = 0.75
"""A sequence shorter than this share of its block's longest starts a block of its own length."""


@dataclass(frozen=True, slots=True)
class Microbatch:
    """One forward.

    Attributes:
        input_ids: int64 `[U]`, distinct tokens in flat order.
        position_ids: int64 `[U]`.
        gathers: int64 `[S, L]` each, attention blocks (`hf.attention.AttentionBlocks`).
        scatter: int64 `[U]`.
        members: int64 `[L]`, the flat tokens of every sequence, sequence after sequence (`hf.varlen`).
        lengths: int64 `[S]`, tokens of each of these sequences; together L.
        origins: int64 `[U]`, where each flat token of a response lies in the rows: row · C + column; −1: of a prompt.
        sources: int64 `[T]`, flat token whose hidden state predicts each scored token.
        positions: int64 `[T]`, where each scored token lies in the rows: row · C + column.
        sequence_ids: int64 `[T]`, 0 … S−1 within this microbatch.
    """

    input_ids: Int64
    position_ids: Int64
    gathers: tuple[Int64, ...]
    scatter: Int64
    members: Int64
    lengths: Int64
    origins: Int64
    sources: Int64
    positions: Int64
    sequence_ids: Int64


def check_batch(batch: PackedBatch, share: RankShare | None = None) -> None:
    """Prove that the rows are what the plan says.

    Args:
        batch: the rows; those of one data-parallel rank where `share` says so.
        share: how many of the Φ loss tokens lie in them; None: all.

    Raises:
        ValueError: sequences lie elsewhere than planned, or the loss tokens are not exactly as many as they must be.
    """
    plan = batch.plan
    expected = np.zeros((plan.num_rows, plan.token_capacity), dtype=np.int32)
    for index, sequence in enumerate(plan.sequences):
        if sequence.num_prompt_tokens == 0:
            raise ValueError(
                f"plan {plan.plan_number}: {sequence.trajectory_id} has no prompt to predict its first token"
            )
        end = sequence.offset + sequence.num_prompt_tokens + sequence.num_response_tokens
        expected[sequence.row, sequence.offset : end] = index + 1
    if not np.array_equal(expected, batch.sequence_ids):
        raise ValueError(f"plan {plan.plan_number}: sequence_ids do not lie where the plan says")
    num_loss_tokens = int(batch.loss_mask.sum())
    if share is not None:
        if num_loss_tokens != share.num_loss_tokens:
            raise ValueError(
                f"plan {plan.plan_number}: {num_loss_tokens} loss tokens, rank {share.rank}'s share is "
                f"{share.num_loss_tokens}"
            )
        return
    exact = num_loss_tokens == plan.token_budget
    if not exact and not (plan.is_final and num_loss_tokens < plan.token_budget):
        raise ValueError(f"plan {plan.plan_number}: {num_loss_tokens} loss tokens, the budget is {plan.token_budget}")


def sampled_mask(batch: PackedBatch) -> Bool:
    """Tokens that were sampled, as far as a batch can tell: bool `[B, C]`.

    Within a sequence's interval, those with loss. Outside of it (tokens of a response that was cut), all: whether one
    of those was forced is not known here.
    """
    sampled = batch.loss_mask != 0
    for sequence in batch.plan.sequences:
        start = sequence.offset + sequence.num_prompt_tokens
        row = sampled[sequence.row]
        row[start : start + sequence.interval.start] = True
        row[start + sequence.interval.end : start + sequence.num_response_tokens] = True
    return sampled


def iterate_microbatches(batch: PackedBatch, scored: Bool, wanted: Bool, max_tokens: int) -> Iterator[Microbatch]:
    """Cut a batch into forwards of at most `max_tokens` distinct tokens.

    Responses to one prompt stay next to each other, whatever their rows, so that their prompt is computed once.

    Args:
        batch: the rows.
        scored: bool `[B, C]`, tokens whose log-probability is needed. A sequence's first token can't be scored.
        wanted: bool `[B, C]`, sequences without a wanted token are left out.
        max_tokens: bound on distinct tokens; one sequence alone may reach a whole row.
    """
    by_prompt: dict[bytes, list[PackedSequence]] = {}
    for sequence in batch.plan.sequences:
        start = sequence.offset
        end = start + sequence.num_prompt_tokens
        if wanted[sequence.row, start : end + sequence.num_response_tokens].any():
            key = batch.input_ids[sequence.row, start:end].tobytes()
            by_prompt.setdefault(key, []).append(sequence)
    builder = _Builder(batch, scored)
    for siblings in by_prompt.values():
        builder.close_prompt()
        for sequence in siblings:
            if builder.num_tokens and builder.num_tokens + builder.cost(sequence) > max_tokens:
                yield builder.finish()
                builder = _Builder(batch, scored)
            builder.add(sequence)
    if builder.num_tokens:
        yield builder.finish()


def iterate_rows(batch: PackedBatch, scored: Bool, wanted: Bool, rows_per_microbatch: int) -> Iterator[Microbatch]:
    """Cut a batch into forwards of so many rows, as `core.packing` filled them.

    Rows are fuller than what `iterate_microbatches` makes where few tokens are shared. Arguments as there.
    """
    plan = batch.plan
    by_part: dict[int, list[tuple[bytes, PackedSequence]]] = {}
    for sequence in plan.sequences:
        start, middle = sequence.offset, sequence.offset + sequence.num_prompt_tokens
        if wanted[sequence.row, start : middle + sequence.num_response_tokens].any():
            key = batch.input_ids[sequence.row, start:middle].tobytes()
            by_part.setdefault(sequence.row // rows_per_microbatch, []).append((key, sequence))
    for _, members in sorted(by_part.items()):
        builder, prompt = _Builder(batch, scored), None
        for key, sequence in sorted(members, key=lambda member: member[0]):
            if key != prompt:
                builder.close_prompt()
                prompt = key
            builder.add(sequence)
        yield builder.finish()


def idle_microbatch() -> Microbatch:
    """A forward of one token and nothing scored, for a rank that has no more while others do."""
    one, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
    return Microbatch(
        input_ids=one,
        position_ids=one,
        gathers=(one[None],),
        scatter=one,
        members=one,
        lengths=np.ones(1, np.int64),
        origins=np.full(1, -1, np.int64),
        sources=none,
        positions=none,
        sequence_ids=none,
    )


class _Builder:
    """One microbatch in the making."""

    def __init__(self, batch: PackedBatch, scored: Bool) -> None:
        self._batch = batch
        self._scored = scored
        self.num_tokens = 0
        self._inputs: list[Int64] = []
        self._members: list[Int64] = []
        self._origins: list[Int64] = []
        self._sources: list[Int64] = []
        self._positions: list[Int64] = []
        self._prompt: Int64 | None = None

    def close_prompt(self) -> None:
        """Forget the prompt: the sequences added from here on have another one."""
        self._prompt = None

    def cost(self, sequence: PackedSequence) -> int:
        """Distinct tokens that a sequence would add, at most."""
        return sequence.num_response_tokens + (sequence.num_prompt_tokens if self._prompt is None else 0)

    def add(self, sequence: PackedSequence) -> None:
        start = sequence.offset
        length = sequence.num_prompt_tokens + sequence.num_response_tokens
        columns = 1 + np.flatnonzero(self._scored[sequence.row, start + 1 : start + length])
        # The last scored token is predicted, never read.
        num_inputs = max(int(columns[-1]), sequence.num_prompt_tokens) if columns.size else sequence.num_prompt_tokens
        ids = self._batch.input_ids[sequence.row, start : start + num_inputs].astype(np.int64)
        num_prompt = sequence.num_prompt_tokens
        if self._prompt is None or num_prompt == 0:
            self._prompt = self._append(ids[:num_prompt], np.full(num_prompt, -1, np.int64))
        first = sequence.row * self._batch.plan.token_capacity + start
        response = np.arange(first + num_prompt, first + num_inputs, dtype=np.int64)
        member = np.concatenate([self._prompt, self._append(ids[num_prompt:], response)])
        self._members.append(member)
        self._sources.append(member[columns - 1])
        self._positions.append(first + columns)

    def _append(self, ids: Int64, origins: Int64) -> Int64:
        self._inputs.append(ids)
        self._origins.append(origins)
        self.num_tokens += ids.size
        return np.arange(self.num_tokens - ids.size, self.num_tokens, dtype=np.int64)

    def finish(self) -> Microbatch:
        position_ids = np.zeros(self.num_tokens, dtype=np.int64)
        for member in self._members:
            position_ids[member] = np.arange(member.size)
        gathers, scatter = _attention_blocks(self._members, self.num_tokens)
        counts = [positions.size for positions in self._positions]
        return Microbatch(
            input_ids=np.concatenate(self._inputs),
            position_ids=position_ids,
            gathers=gathers,
            scatter=scatter,
            members=np.concatenate(self._members),
            lengths=np.array([member.size for member in self._members], dtype=np.int64),
            origins=np.concatenate(self._origins),
            sources=np.concatenate(self._sources),
            positions=np.concatenate(self._positions),
            sequence_ids=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
        )


def _attention_blocks(members: list[Int64], num_tokens: int) -> tuple[tuple[Int64, ...], Int64]:
    """Blocks of sequences of like length, longest first, and each flat token's place in their joined outputs."""
    gathers: list[Int64] = []
    scatter = np.zeros(num_tokens, dtype=np.int64)
    ordered = sorted((member for member in members if member.size), key=lambda member: -member.size)
    first = 0
    base = 0
    while first < len(ordered):
        length = ordered[first].size
        last = first
        while last < len(ordered) and ordered[last].size >= SAME_BLOCK_RATIO * length:
            last += 1
        gather = np.empty((last - first, length), dtype=np.int64)
        for row, member in enumerate(ordered[first:last]):
            gather[row, : member.size] = member
            gather[row, member.size :] = member[0]
            scatter[member] = base + row * length + np.arange(member.size)
        gathers.append(gather)
        base += gather.size
        first = last
    return tuple(gathers), scatter

"""Partial responses: a rollout hands over unfinished responses piece by piece, so that its death loses little.

    rollout ──tokens [0, 40)──▶ ──tokens [40, 75)──▶ shard of the group      another rollout ◀── tokens [0, 75) ── shard

Owns: the form of a piece, cutting a generation into pieces and joining them, and the decision to append one
(`decide_append`). Does not own where pieces are stored (`storage.partial_store`), nor when they are handed over.
Invariants: a response's pieces follow each other without gap or overlap; only its group's present writer appends. The
ledger knows nothing of pieces: their trajectories are `generating`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np

from ring_async.columns import NO_COLUMNS, Buffer, Column, Columns, check_arrays, concatenate_columns, describe
from ring_async.types import FinishReason, Float32, Generation, Int32, Segment, UInt8, check_segments


class PartialHeader(msgspec.Struct, frozen=True):
    """The header of one piece, which holds tokens `[start, start + num_tokens)` of one response.

    Attributes:
        segments: cover exactly these tokens, at their positions in the response.
        columns: the optional ones.
        finish_reason: of the last piece of a response that has ended, while others of its group go on; else None.
    """

    trajectory_id: str
    start: int
    num_tokens: int
    segments: tuple[Segment, ...]
    columns: tuple[Column, ...] = ()
    finish_reason: FinishReason | None = None

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class PartialResponse:
    """A piece of an unfinished response; if it starts at 0, all that was generated so far.

    Attributes:
        response_ids: int32 `[T]`, T = `header.num_tokens`.
        behavior_logprobs: float32 `[T]`.
        loss_mask: uint8 `[T]`.
        columns: optional ones, `[T]` or `[T, width]` each.
    """

    header: PartialHeader
    response_ids: Int32
    behavior_logprobs: Float32
    loss_mask: UInt8
    columns: Columns = field(default_factory=lambda: NO_COLUMNS)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays in stored order, uncopied: the required columns, then the optional ones."""
        return (self.response_ids, self.behavior_logprobs, self.loss_mask, *self.columns.values())

    @property
    def generation(self) -> Generation:
        """A piece that starts at 0, as an engine takes it for a prefix; `length` stands for one that has not ended."""
        return Generation(
            self.response_ids, self.behavior_logprobs, self.header.segments, self.header.finish_reason or "length",
            self.columns,
        )  # fmt: skip

    def first(self, num_tokens: int) -> PartialResponse:
        """The first tokens of this piece, as views."""
        header = self.header
        end = header.start + num_tokens
        columns = {name: array[:num_tokens] for name, array in self.columns.items()}
        return PartialResponse(
            PartialHeader(
                header.trajectory_id,
                header.start,
                num_tokens,
                _clip(header.segments, header.start, end),
                header.columns,
            ),
            self.response_ids[:num_tokens],
            self.behavior_logprobs[:num_tokens],
            self.loss_mask[:num_tokens],
            columns or NO_COLUMNS,
        )

    def check(self) -> None:
        """Prove that the arrays are what the header says.

        Raises:
            ValueError: a size differs, a column is not allowed, or segments do not cover the piece exactly.
        """
        header = self.header
        where = f"partial response {header.trajectory_id}"
        if header.start < 0 or header.num_tokens < 1:
            raise ValueError(f"{where}: {header.num_tokens} tokens from {header.start} are no piece of a response")
        for array in (self.response_ids, self.behavior_logprobs, self.loss_mask):
            if array.size != header.num_tokens:
                raise ValueError(f"{where}: {array.size} tokens, header says {header.num_tokens}")
        check_arrays(header.columns, self.columns, where, header.num_tokens)
        check_segments(header.segments, header.start, header.end, where, header.trajectory_id)


def piece_of(
    trajectory_id: str, generation: Generation, start: int, end: int, finish_reason: FinishReason | None = None
) -> PartialResponse:
    """Cut the tokens `[start, end)` out of a generation, as views of its arrays."""
    columns = {name: array[start:end] for name, array in generation.columns.items()}
    return PartialResponse(
        PartialHeader(
            trajectory_id, start, end - start, _clip(generation.segments, start, end), describe(columns), finish_reason
        ),
        generation.response_ids[start:end],
        generation.behavior_logprobs[start:end],
        np.ones(end - start, np.uint8),
        columns or NO_COLUMNS,
    )


class AppendOutcome(StrEnum):
    """The outcome for a piece that was handed over."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    """All tokens of the piece are held already."""
    OUT_OF_ORDER = "out_of_order"
    """The piece does not begin where the held tokens end; the sender goes on from that position."""
    NOT_WRITER = "not_writer"
    """The group belongs to another writer now: the sender stops."""
    ENDED = "ended"
    """The group is complete in replay: the sender stops."""


class AppendAnswer(msgspec.Struct, frozen=True):
    """The outcome for one piece, and the number of tokens of its response held now, where the next piece must begin."""

    trajectory_id: str
    outcome: AppendOutcome
    num_held: int


def decide_append(
    header: PartialHeader, *, num_held: int, writer: str, present_writer: str | None, is_known: bool
) -> AppendOutcome:
    """Decide whether a shard appends a piece.

    Args:
        header: of the piece.
        num_held: tokens of the response that the shard holds.
        writer: the sender of the piece.
        present_writer: the writer that may append to the group; None: no writer yet, the first one becomes it.
        is_known: whether replay holds the complete group, or held it.
    """
    if is_known:
        return AppendOutcome.ENDED
    if present_writer not in (None, writer):
        return AppendOutcome.NOT_WRITER
    if header.end <= num_held:
        return AppendOutcome.DUPLICATE
    return AppendOutcome.APPENDED if header.start == num_held else AppendOutcome.OUT_OF_ORDER


def join_pieces(pieces: Sequence[PartialResponse]) -> PartialResponse:
    """Join all pieces of one response into one that starts at 0 (one copy). Adjacent segments of one version are
    merged.

    A column that some pieces lack is zero there.

    Raises:
        ValueError: the pieces do not follow each other from 0, or a column differs between them.
    """
    trajectory_id = pieces[0].header.trajectory_id
    where = f"partial response {trajectory_id}"
    end = 0
    segments: list[Segment] = []
    for piece in pieces:
        if piece.header.start != end:
            raise ValueError(f"{where}: a piece from {piece.header.start} follows tokens up to {end}")
        end = piece.header.end
        for segment in piece.header.segments:
            if segments and segments[-1].policy_version == segment.policy_version:
                segments[-1] = Segment(segments[-1].start, segment.end, segment.policy_version)
            else:
                segments.append(segment)
    columns = concatenate_columns([(piece.header.num_tokens, piece.columns) for piece in pieces], where)
    joined = PartialResponse(
        PartialHeader(trajectory_id, 0, end, tuple(segments), describe(columns), pieces[-1].header.finish_reason),
        np.concatenate([piece.response_ids for piece in pieces]),
        np.concatenate([piece.behavior_logprobs for piece in pieces]),
        np.concatenate([piece.loss_mask for piece in pieces]),
        columns,
    )
    joined.check()
    return joined


def _clip(segments: Sequence[Segment], start: int, end: int) -> tuple[Segment, ...]:
    """The parts of segments that cover the tokens `[start, end)`."""
    return tuple(
        Segment(max(start, segment.start), min(end, segment.end), segment.policy_version)
        for segment in segments
        if segment.start < end and segment.end > start
    )

"""One optimizer batch: which token intervals it takes (`BatchPlan`), and their tokens in packed rows (`PackedBatch`).

Owns: their fields, and how a batch lies in memory. Does not own the choice of intervals (`core.replay`), nor the
packing
(`core.packing`).
Invariants: immutable once built; a plan describes its batch's arrays exactly.

Shapes: `[B, C]` packed rows of `token_capacity` C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ring_async.columns import NO_COLUMNS, Buffer, Column, Columns, read_columns
from ring_async.types import Float32, Int32, PolicyVersion, UInt8


class TokenInterval(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Response tokens `[start, end)` of one trajectory: the unit in which consumption is accounted."""

    trajectory_id: str
    start: int
    end: int


class PackedSequence(msgspec.Struct, frozen=True, gc=False):
    """One prompt + response of a batch: its place in the packed rows, and its learning signal."""

    trajectory_id: str
    source: str
    row: int
    offset: int
    num_prompt_tokens: int
    num_response_tokens: int
    """The whole response, also when only an interval of it carries loss here."""
    interval: TokenInterval
    reward: float
    advantage: float
    staleness: int
    """Versions, from the oldest token, at consumption."""


class BatchPlan(msgspec.Struct, frozen=True):
    """One optimizer batch: which token intervals, exactly `token_budget` loss tokens, in which rows.

    Plans are numbered without gaps. A plan is logged durably before the learner gets it, and a learner that crashed is
    given
    the logged plan of a number again.
    """

    plan_number: int
    policy_version: PolicyVersion
    """The learner's version at consumption."""
    token_budget: int
    num_rows: int
    token_capacity: int
    num_ranks: int
    """Rows `[r * num_rows / num_ranks, (r + 1) * num_rows / num_ranks)` belong to learner rank r."""
    sequences: tuple[PackedSequence, ...]
    verifier_epoch: int
    mixture_epoch: int
    columns: tuple[Column, ...] = ()
    """The optional token columns of the groups it takes from."""
    is_final: bool = False
    """A stage's declared end: the only batch that may hold fewer than `token_budget` loss tokens."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch plan with its tokens, packed into rows of one fixed shape `[B, C]`.

    Values at a position describe the token that lies there; the logits that predict it are one position earlier.
    Padding has
    `sequence_ids` 0 and no loss.

    Attributes:
        input_ids: int32 `[B, C]`.
        position_ids: int32 `[B, C]`, from 0 in every sequence.
        sequence_ids: int32 `[B, C]`, 1 + index into `plan.sequences`, 0 for padding.
        loss_mask: uint8 `[B, C]`; sums to exactly Φ.
        behavior_logprobs: float32 `[B, C]`, 0 outside responses.
        advantages: float32 `[B, C]`, 0 outside responses.
        token_staleness: int32 `[B, C]`, versions between the learner's and the token's, 0 outside responses.
        temperatures: float32 `[B, C]`, 1 for padding.
        columns: the optional columns of `plan.columns`, `[B, C]` or `[B, C, width]` each, 0 outside responses.
    """

    plan: BatchPlan
    input_ids: Int32
    position_ids: Int32
    sequence_ids: Int32
    loss_mask: UInt8
    behavior_logprobs: Float32
    advantages: Float32
    token_staleness: Int32
    temperatures: Float32
    columns: Columns = field(default_factory=lambda: NO_COLUMNS)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays in wire order, uncopied: the required ones, then the optional columns."""
        return (*(getattr(self, column.name) for column in PACKED_COLUMNS), *self.columns.values())

    @classmethod
    def from_buffers(cls, plan: BatchPlan, buffers: Sequence[Buffer]) -> PackedBatch:
        """Build a batch around received buffers, without a copy.

        Raises:
            ValueError: the buffers' number or sizes do not fit the plan, or a column of it is not allowed.
        """
        where = f"plan {plan.plan_number}"
        num_required = len(PACKED_COLUMNS)
        num_expected = num_required + len(plan.columns)
        if len(buffers) != num_expected:
            raise ValueError(f"{where}: {len(buffers)} buffers, expected {num_expected}")
        shape = (plan.num_rows, plan.token_capacity)
        arrays: list[Any] = [
            column.read(buffer, *shape) for buffer, column in zip(buffers, PACKED_COLUMNS, strict=False)
        ]
        arrays.append(read_columns(plan.columns, buffers[num_required:], where, *shape))
        return cls(plan, *arrays)


PACKED_COLUMNS: Final = (
    Column("input_ids", "int32"),
    Column("position_ids", "int32"),
    Column("sequence_ids", "int32"),
    Column("loss_mask", "uint8"),
    Column("behavior_logprobs", "float32"),
    Column("advantages", "float32"),
    Column("token_staleness", "int32"),
    Column("temperatures", "float32"),
)
"""What every packed batch has, in wire order."""

"""Which part of which Hugging Face tensor lies where in a rank's parameters.

    linear_qkv.weight of tensor rank 1, two heads a group      q_proj rows 64…95, k_proj rows 32…47, v_proj rows 32…47

Owns: `Block`, a rectangle of a tensor at a place of a parameter, and the blocks that Megatron-core's own layouts come
to: groups of queries, keys and values; gate above up; columns. Does not own the tensors' names (a file a family).

Everything that crosses from one side to the other is made of blocks: weights are loaded, published and saved by them,
moments too, and a checkpoint is read back in another layout since each layout has its own blocks of the same tensors.

Invariant: the blocks of all ranks that hold one copy cover every tensor exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Held = Literal["split", "whole", "expert"]
"""How tensor ranks hold a parameter: a part each, all of it, or some experts each."""


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of a Hugging Face tensor, and where it lies in a parameter.

    Attributes:
        name: of the tensor.
        shape: of the whole tensor.
        rows: of the tensor.
        columns: of the tensor; None: all (a vector has none).
        at: the parameter's row at which the rectangle begins.
        expert: index into the parameter's first dimension, where it holds many matrices.
    """

    name: str
    shape: tuple[int, ...]
    rows: range
    columns: range | None = None
    at: int = 0
    expert: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """The view of a parameter that this block is."""
        matrix = parameter if self.expert is None else parameter[self.expert]
        return matrix[self.at : self.at + len(self.rows)]

    def of_tensor(self, tensor: Tensor) -> Tensor:
        """The view of the whole tensor that this block is."""
        rows = tensor[self.rows.start : self.rows.stop]
        return rows if self.columns is None else rows[:, self.columns.start : self.columns.stop]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One parameter of a rank.

    Attributes:
        name: Megatron-core's, on this rank.
        held: how tensor ranks hold it.
        blocks: that it is made of.
    """

    name: str
    held: Held
    blocks: tuple[Block, ...]


def part(length: int, index: int, num_parts: int) -> range:
    """The part of a dimension that a tensor rank holds."""
    size = length // num_parts
    return range(index * size, (index + 1) * size)


def whole(name: str, *shape: int, at: int = 0, expert: int | None = None) -> Block:
    """All of a tensor."""
    return Block(name, shape, range(shape[0]), at=at, expert=expert)


def gate_above_up(names: tuple[str, str], shape: tuple[int, int], index: int, num_parts: int) -> tuple[Block, ...]:
    """`linear_fc1`: a tensor rank's rows of the gate, then its rows of the other matrix."""
    rows = part(shape[0], index, num_parts)
    return tuple(Block(name, shape, rows, at=place * len(rows)) for place, name in enumerate(names))


def columns_of(name: str, shape: tuple[int, int], index: int, num_parts: int) -> tuple[Block, ...]:
    """`linear_proj`, `linear_fc2`: a tensor rank's columns."""
    return (Block(name, shape, range(shape[0]), part(shape[1], index, num_parts)),)


def query_groups(
    tensors: tuple[tuple[str, tuple[int, ...], int], ...],
    heads: tuple[int, int, int],
    index: int,
    num_parts: int,
) -> Iterator[Block]:
    """`linear_qkv`: for each group of a tensor rank its queries, its key, its value.

    Args:
        tensors: of queries, keys and values: name, shape, and the row where they begin in it.
        heads: query heads, groups, width of a head.
        index: the tensor rank.
        num_parts: tensor ranks.
    """
    num_heads, num_groups, width = heads
    queries = num_heads // num_groups * width
    at = 0
    for group in part(num_groups, index, num_parts):
        for (name, shape, first), length in zip(tensors, (queries, width, width), strict=True):
            start = first + group * length
            yield Block(name, shape, range(start, start + length), at=at)
            at += length

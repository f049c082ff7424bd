"""Token columns: named arrays that hold one value, or a fixed number of values, for every token.

Owns: what a column is (name, dtype, width), which names and dtypes are allowed, and reading columns out of received
bytes without a copy. Does not own which columns a group or a batch must have (`types`, `batches`).
Invariants: a header describes its columns exactly; bytes are only ever read as one of `DTYPES`, never unpickled.

Anybody may add a column to a `Generation`, for example `routed_experts` (uint8, width layers × top-k). Every actor
between engine and learner carries it unchanged without knowing its meaning; padding of packed rows is zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

Columns = Mapping[str, npt.NDArray[Any]]
"""Arrays by column name, in the order of their description: `[T]` where the width is 1, else `[T, width]`."""

NO_COLUMNS: Final[Columns] = MappingProxyType({})

DTYPES: Final = frozenset(
    {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"}
)
MAX_COLUMNS: Final = 16
"""Optional columns of one group: each is a frame of its messages."""

MAX_WIDTH: Final = 1 << 16
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Column(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The description of one column: `width` values of `dtype` for each token."""

    name: str
    dtype: str
    width: int = 1

    @property
    def bytes_per_token(self) -> int:
        return np.dtype(self.dtype).itemsize * self.width

    def shape(self, *tokens: int) -> tuple[int, ...]:
        """The shape of an array with this column's values for so many tokens, for example `shape(num_rows,
        token_capacity)`.
        """
        return tokens if self.width == 1 else (*tokens, self.width)

    def read(self, buffer: Buffer, *tokens: int) -> npt.NDArray[Any]:
        """View received bytes as this column's array.

        Raises:
            ValueError: the number of bytes is not that of so many tokens.
        """
        array = np.frombuffer(buffer, self.dtype) if memoryview(buffer).nbytes else np.empty(0, self.dtype)  # type: ignore[arg-type]
        return array if len(tokens) == 1 and self.width == 1 else array.reshape(self.shape(*tokens))

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype} × {self.width})"


RESPONSE_IDS: Final = Column("response_ids", "int32")
BEHAVIOR_LOGPROBS: Final = Column("behavior_logprobs", "float32")
LOSS_MASK: Final = Column("loss_mask", "uint8")
REQUIRED_COLUMNS: Final = (RESPONSE_IDS, BEHAVIOR_LOGPROBS, LOSS_MASK)
"""Every response has these, in this order, before its optional ones. Headers describe the optional ones alone."""

_RESERVED: Final = frozenset({"prompt_ids", *(column.name for column in REQUIRED_COLUMNS)})


def describe(columns: Columns, num_dimensions: int = 1) -> tuple[Column, ...]:
    """Describe arrays of optional columns; `num_dimensions` is that of an array of width 1."""
    return tuple(
        Column(name, array.dtype.name, array.shape[-1] if array.ndim > num_dimensions else 1)
        for name, array in columns.items()
    )


def check_columns(columns: Sequence[Column], where: str) -> None:
    """Refuse optional columns that cannot be carried; `where` begins the sentence.

    Raises:
        ValueError: too many columns, a name that is taken or not allowed, an unknown dtype, or an impossible width.
    """
    if len(columns) > MAX_COLUMNS:
        raise ValueError(f"{where}: {len(columns)} optional columns, at most {MAX_COLUMNS} are carried")
    seen: set[str] = set()
    for column in columns:
        if not _NAME.fullmatch(column.name):
            raise ValueError(f"{where}: column name {column.name[:80]!r} is not of the form {_NAME.pattern}")
        if column.name in _RESERVED or column.name in seen:
            raise ValueError(f"{where}: two columns are called {column.name}")
        if column.dtype not in DTYPES:
            allowed = ", ".join(sorted(DTYPES))
            raise ValueError(f"{where}: column {column.name} has dtype {column.dtype[:80]!r}; allowed are {allowed}")
        if not 1 <= column.width <= MAX_WIDTH:
            raise ValueError(f"{where}: column {column.name} has width {column.width}; allowed are 1 to {MAX_WIDTH:,}")
        seen.add(column.name)


def check_arrays(described: Sequence[Column], columns: Columns, where: str, *tokens: int) -> None:
    """Prove that optional columns are what their description says, for so many tokens.

    Raises:
        ValueError: names, a dtype or a shape differ.
    """
    check_columns(described, where)
    if tuple(columns) != tuple([column.name for column in described]):
        raise ValueError(f"{where}: columns {list(columns)}, header says {[column.name for column in described]}")
    for column in described:
        array = columns[column.name]
        if array.dtype != np.dtype(column.dtype) or array.shape != column.shape(*tokens):
            raise ValueError(
                f"{where}: column {column.name} is {array.dtype} {list(array.shape)}, header says "
                f"{column.dtype} {list(column.shape(*tokens))}"
            )


def read_columns(described: Sequence[Column], buffers: Sequence[Buffer], where: str, *tokens: int) -> Columns:
    """Optional columns as views into received buffers.

    Raises:
        ValueError: a description is not allowed, or a buffer does not have the described size.
    """
    if not described:
        return NO_COLUMNS
    check_columns(described, where)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for column, buffer in zip(described, buffers, strict=True):
        try:
            arrays[column.name] = column.read(buffer, *tokens)
        except ValueError as error:
            num_bytes = memoryview(buffer).nbytes  # type: ignore[arg-type]
            expected = column.bytes_per_token * int(np.prod(tokens))
            raise ValueError(f"{where}: {num_bytes} bytes of column {column}, expected {expected}") from error
    return arrays


def slice_columns(columns: Columns, start: int, end: int) -> Columns:
    """Tokens `[start, end)` of every column, as views."""
    return {name: array[start:end] for name, array in columns.items()} if columns else NO_COLUMNS


def concatenate_columns(parts: Sequence[tuple[int, Columns]], where: str) -> Columns:
    """Join the columns of several parts, each given with its number of tokens (one copy).

    A column that some parts lack is zero there.

    Raises:
        ValueError: a column has another dtype or width in one part than in another.
    """
    described = united([describe(columns) for _, columns in parts], where)
    joined: dict[str, npt.NDArray[Any]] = {}
    for column in described:
        pieces = [
            columns[column.name] if column.name in columns else np.zeros(column.shape(num_tokens), column.dtype)
            for num_tokens, columns in parts
        ]
        joined[column.name] = np.concatenate(pieces)
    return joined or NO_COLUMNS


def united(descriptions: Iterable[Sequence[Column]], where: str) -> tuple[Column, ...]:
    """The union of several descriptions: each column once, in the order of first appearance.

    Raises:
        ValueError: two columns of one name differ in dtype or width.
    """
    found: dict[str, Column] = {}
    for description in descriptions:
        for column in description:
            if found.setdefault(column.name, column) != column:
                raise ValueError(f"{where}: column {column} differs from {found[column.name]}")
    return tuple(found.values())

"""A header and arrays as one value on disk, with a checksum over both.

    xxh3-64 · length of the header · checksum of the header · header · padding · required arrays · each optional column

Optional columns are aligned to 8 bytes.

Owns: this format. Does not own the meaning of headers, nor where values are stored.
Invariants: arrays are read without a copy, aligned where LMDB aligns the value (it does once one fills a page); a value
whose checksum does not hold is found before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xxhash

from ring_async.columns import NO_COLUMNS, REQUIRED_COLUMNS, Buffer, Column

_HEAD: Final = struct.Struct("<QII")
"""Checksum of all that follows the head, length of the header, low half of its own checksum; 16 bytes, so that arrays
stay aligned. Headers are read without the arrays, when a store is opened."""

_ALIGNMENT: Final = 8

Value = bytes | memoryview


class ValueScratch:
    """Reusable memory in which one value at a time is assembled.

    The allocator returns a block of this size to the system at once, so fresh memory for each value would cost a page
    fault for every page. Reused memory also stays in the processor's cache until LMDB copies it.

    Example:
        `put(key, scratch.encode(header, group.buffers))` writes one group; the next `encode` uses the same memory.
    """

    def __init__(self) -> None:
        self._block = bytearray(1 << 16)

    def encode(self, header: bytes, buffers: Sequence[Buffer], num_unaligned: int = 4) -> memoryview:
        """One value, valid until the next call. The first `num_unaligned` buffers lie side by side."""
        parts = [_bytes(part) for part in buffers]
        position = _HEAD.size + len(header)
        start = position + -len(header) % _ALIGNMENT
        size = start + sum(map(len, parts)) + _ALIGNMENT * len(parts[num_unaligned:])
        if size > len(self._block):
            self._block = bytearray(2 * size)
        value = memoryview(self._block)
        value[_HEAD.size : position] = header
        value[position:start] = bytes(start - position)
        for index, part in enumerate(parts):
            if index >= num_unaligned and start % _ALIGNMENT:
                aligned = start + -start % _ALIGNMENT
                value[start:aligned] = bytes(aligned - start)
                start = aligned
            end = start + len(part)
            value[start:end] = part
            start = end
        value = value[:start]
        checksum = xxhash.xxh3_64_intdigest(value[_HEAD.size :])
        _HEAD.pack_into(self._block, 0, checksum, len(header), _header_checksum(header))
        return value


def is_whole(value: Value) -> bool:
    """Whether the checksums of a value hold."""
    if not is_header_whole(value):
        return False
    checksum, _, _ = _HEAD.unpack_from(value)
    return bool(xxhash.xxh3_64_intdigest(value[_HEAD.size :]) == checksum)


def is_header_whole(value: Value) -> bool:
    """Whether the checksum of a value's header holds; the arrays are not read."""
    if len(value) < _HEAD.size:
        return False
    _, _, checksum = _HEAD.unpack_from(value)
    return _header_checksum(read_header(value)) == checksum


def read_header(value: Value) -> Value:
    """The encoded header of a value."""
    _, length, _ = _HEAD.unpack_from(value)
    return value[_HEAD.size : _HEAD.size + length]


def first_array(value: Value) -> int:
    """Where the arrays of a value begin."""
    _, length, _ = _HEAD.unpack_from(value)
    return int(_HEAD.size + length + -length % _ALIGNMENT)


def read_array(value: Value, dtype: str, count: int, position: int) -> tuple[Any, int]:
    """A view of `count` elements from `position` on, and the position behind them."""
    array = np.frombuffer(value, dtype, count, position) if count else np.empty(0, dtype)
    return array, position + array.nbytes


def read_token_columns(value: Value, described: Sequence[Column], num_tokens: int, position: int) -> list[Any]:
    """The required arrays, then the mapping of optional columns, of the `num_tokens` tokens from `position` on."""
    arrays: list[Any] = []
    for column in REQUIRED_COLUMNS:
        array, position = read_array(value, column.dtype, num_tokens, position)
        arrays.append(array)
    columns = {}
    for column in described:
        position += -position % _ALIGNMENT
        array, position = read_array(value, column.dtype, num_tokens * column.width, position)
        columns[column.name] = array.reshape(column.shape(num_tokens))
    return [*arrays, columns or NO_COLUMNS]


def num_bytes(part: Buffer) -> int:
    """Size of a buffer."""
    return part.nbytes if isinstance(part, np.ndarray) else memoryview(part).nbytes


def _header_checksum(header: Value) -> int:
    return xxhash.xxh3_64_intdigest(header) & 0xFFFFFFFF


def _bytes(part: Buffer) -> memoryview:
    """A buffer as flat bytes, uncopied. An empty one has no shape to cast."""
    view: memoryview = memoryview(part)  # type: ignore[arg-type]
    return view.cast("B") if view.nbytes else memoryview(b"")

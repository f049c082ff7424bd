"""The layout of a version's bytes: tensors one after another, cut into buckets that are sent and checked independently.

Owns: the start of each tensor, the cut into buckets, the pieces of tensors that fill a bucket, and the manifest that
describes these to a receiver. Does not own: copying, hashing, sending.

Invariants: tensors lie in order, aligned to `ALIGNMENT` bytes, without overlap; what lies between them is zero; buckets
are equal cuts of `bucket_bytes` (the last may be shorter) and cover every byte exactly once. So the bytes of a version
are a function of its tensors alone, and so is the checksum of every bucket.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec

ALIGNMENT = 64
"""Bytes at whose multiples tensors start: enough for vector loads and for every dtype."""

LARGE_BYTES = 1 << 20
"""A tensor of this many bytes is broadcast by itself, from where it lies."""

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "float32": 4,
    "int32": 4,
    "float64": 8,
    "int64": 8,
}
"""Bytes of one value, by the names that torch gives its dtypes."""

ChecksumKind = Literal["xxh3_64", "fold64"]
"""`xxh3_64`: xxHash's, for bytes in host memory. `fold64`: `ring_async.core.fold64`, one pass on a GPU."""


class TensorShape(NamedTuple):
    """The description of a tensor without its values: Hugging Face name, torch's name of the dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: what it is, and at which byte of the version it starts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def end(self) -> int:
        return self.start + self.num_bytes


class Piece(NamedTuple):
    """Bytes `[start, start + num_bytes)` of the version: those of one tensor from its byte `offset`, or zeros."""

    start: int
    num_bytes: int
    tensor: int | None
    """Index into `WeightsLayout.tensors`; None for padding."""
    offset: int


class WeightsLayout(msgspec.Struct, frozen=True, dict=True):
    """The place of every tensor of a version. (`dict=True` keeps the cached properties.)

    Raises:
        ValueError: tensors overlap, are misaligned, share a name or reach past the end; a dtype is unknown.
    """

    tensors: tuple[TensorSpec, ...]
    num_bytes: int
    bucket_bytes: int
    large_bytes: int = LARGE_BYTES
    """A tensor of at least this many bytes is sent alone."""

    def __post_init__(self) -> None:
        if self.large_bytes < ALIGNMENT:
            raise ValueError(f"large_bytes {self.large_bytes} is less than {ALIGNMENT}")
        if self.bucket_bytes <= 0 or self.bucket_bytes % ALIGNMENT:
            raise ValueError(f"bucket_bytes {self.bucket_bytes} is not a positive multiple of {ALIGNMENT}")
        position = 0
        names = set()
        for tensor in self.tensors:
            if tensor.dtype not in ITEM_BYTES:
                raise ValueError(f"tensor {tensor.name}: dtype {tensor.dtype} cannot be sent")
            if any(size < 0 for size in tensor.shape):
                raise ValueError(f"tensor {tensor.name}: negative size in shape {tensor.shape}")
            if tensor.name in names:
                raise ValueError(f"tensor {tensor.name}: named twice")
            if tensor.start < position or tensor.start % ALIGNMENT:
                raise ValueError(f"tensor {tensor.name}: starts at byte {tensor.start}, overlapping or misaligned")
            names.add(tensor.name)
            position = tensor.end
        if position > self.num_bytes:
            raise ValueError(f"tensors reach to byte {position}, past the end {self.num_bytes}")

    @property
    def num_buckets(self) -> int:
        return -(-self.num_bytes // self.bucket_bytes)

    def bucket_range(self, bucket: int) -> tuple[int, int]:
        """First byte and end of one bucket."""
        start = bucket * self.bucket_bytes
        return start, min(start + self.bucket_bytes, self.num_bytes)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces that fill bytes `[start, end)`, in order and without a gap."""
        position = start
        index = max(0, bisect_right(self.tensors, position, key=lambda tensor: tensor.start) - 1)
        while position < end:
            while index < len(self.tensors) and self.tensors[index].end <= position:
                index += 1
            if index == len(self.tensors):
                yield Piece(position, end - position, None, 0)
                return
            tensor = self.tensors[index]
            if tensor.start > position:
                stop = min(tensor.start, end)
                yield Piece(position, stop - position, None, 0)
            else:
                stop = min(tensor.end, end)
                yield Piece(position, stop - position, index, position - tensor.start)
            position = stop

    @cached_property
    def sends(self) -> tuple[tuple[Piece, ...], ...]:
        """The parts that each bucket is sent in: one for a large tensor's bytes, one for all bytes between two large
        tensors.

        The parts follow from the layout alone, so that both ends agree on them. Starts, lengths and offsets are
        multiples of `ALIGNMENT`: a large tensor's last odd bytes belong to the next part. `tensor` is None for a part
        between two.
        """
        return tuple(tuple(self._cut(*self.bucket_range(bucket))) for bucket in range(self.num_buckets))

    @cached_property
    def encoded(self) -> bytes:
        """The layout in MessagePack."""
        return msgspec.msgpack.encode(self)

    def _cut(self, start: int, end: int) -> Iterator[Piece]:
        for piece in self.pieces(start, end):
            if piece.tensor is None or piece.num_bytes < self.large_bytes:
                continue
            if start < piece.start:
                yield Piece(start, piece.start - start, None, 0)
            whole = piece.num_bytes // ALIGNMENT * ALIGNMENT
            yield Piece(piece.start, whole, piece.tensor, piece.offset)
            start = piece.start + whole
        if start < end:
            yield Piece(start, end - start, None, 0)


class Manifest(msgspec.Struct, frozen=True):
    """The description of a version for receivers: the layout, a checksum per bucket, and where to fetch it.

    Raises:
        ValueError: the number of checksums is not that of the buckets.
    """

    layout: WeightsLayout
    checksum_kind: ChecksumKind
    checksums: tuple[int, ...]
    """One for each bucket, 64 bits, unsigned."""
    source: dict[str, Any] = {}
    """How to fetch the version: entries of the channel's own."""

    def __post_init__(self) -> None:
        if len(self.checksums) != self.layout.num_buckets:
            raise ValueError(f"{len(self.checksums)} checksums for {self.layout.num_buckets} buckets")

    def to_plain(self) -> dict[str, Any]:
        """The manifest as plain data, for `WeightsAnnouncement.manifest`."""
        plain = msgspec.to_builtins(self)
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Manifest:
        """Rebuild a manifest from plain data and check it.

        Raises:
            ValueError: the data is no manifest, or contradicts itself.
        """
        try:
            return _manifest_decoder.decode(msgspec.msgpack.encode(plain))
        except msgspec.ValidationError as error:
            raise ValueError(f"malformed manifest: {error}") from error


_manifest_decoder = msgspec.msgpack.Decoder(Manifest)


def plan_layout(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], bucket_bytes: int, large_bytes: int = LARGE_BYTES
) -> WeightsLayout:
    """Lay tensors out one after another.

    Args:
        tensors: name, dtype, shape of each, in the order they are to lie.
        bucket_bytes: size of a bucket; rounded up to a multiple of `ALIGNMENT`.
        large_bytes: as in `WeightsLayout`.

    Raises:
        ValueError: an unknown dtype, or a name given twice.
    """
    position = 0
    specs = []
    for name, dtype, shape in tensors:
        if dtype not in ITEM_BYTES:
            raise ValueError(f"tensor {name}: dtype {dtype} cannot be sent")
        spec = TensorSpec(name, dtype, shape, position)
        specs.append(spec)
        position = _align(spec.end)
    return WeightsLayout(tuple(specs), position, _align(bucket_bytes), large_bytes)


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT

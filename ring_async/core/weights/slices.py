"""Slices of a version: the parts of Hugging Face tensors that one rank of a sharded receiver keeps, and their bytes.

    layout of the version ─┐
    rules of the family ───┼─▶ plan_slices ──▶ SlicePlan ──▶ slice_layout   what this rank holds
    place in the mesh ─────┘                       └───────▶ copies(bucket) bytes to copy from each bucket

Owns: the rules (cut along an axis, owned by number, whole), the slices of a rank, the mapping from a version's bytes to
those the rank keeps. Does not own: a family's rules (the engine knows its model), copying, sending.

A receiver's rank gets every bucket whole, verifies its checksum, copies its own bytes out and drops the bucket. So
sharded and unsharded receivers use the same manifest, and no rank ever holds more than its slices and one bucket.

Invariants: the ranks along one dimension of the mesh cut a tensor into equal parts, in the order of the ranks, without
gap or overlap; ranks that differ only in dimensions that no rule of a tensor names hold the same. A tensor that no rule
matches is an error, never a silent copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import NamedTuple

import msgspec

from ring_async.core.weights.plan import ITEM_BYTES, TensorShape, TensorSpec, WeightsLayout, plan_layout


class MeshRank(msgspec.Struct, frozen=True, array_like=True):
    """A rank's place along one dimension of its mesh: tensor, expert, pipeline …"""

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size}")


class Cut(msgspec.Struct, frozen=True):
    """Ranks of `dimension` share `axis` of a tensor in equal parts.

    `blocks`: sizes along the axis of tensors fused there (query, key, value), each of which is cut by itself; empty:
    the axis is one block. A block smaller than the number of ranks is shared: `size / block` neighbours hold the same
    part (key and value heads, fewer than ranks), in units of `unit` (values along the axis that stay together).
    """

    dimension: str
    axis: int
    blocks: tuple[int, ...] = ()
    unit: int = 1


class Owned(msgspec.Struct, frozen=True):
    """Each rank of `dimension` owns whole tensors, by the number in their names (experts, layers): an equal run of the
    `count` numbers.
    """

    dimension: str
    count: int


class SliceRule(msgspec.Struct, frozen=True):
    """The rule for tensors whose whole name matches `pattern`, a regular expression; the first rule that matches
    applies.

    Without `cuts` and `owned` every rank keeps the whole tensor. The number that `owned` refers to is the pattern's
    group `number`.
    """

    pattern: str
    cuts: tuple[Cut, ...] = ()
    owned: tuple[Owned, ...] = ()


class Range(NamedTuple):
    """Values `[start, end)` along one axis."""

    start: int
    end: int


class TensorSlice(msgspec.Struct, frozen=True, array_like=True):
    """The part of one tensor that a rank keeps: the product, over axes, of ranges joined in order.

    Attributes:
        index: into `WeightsLayout.tensors`.
        ranges: for every axis, ascending.
    """

    index: int
    ranges: tuple[tuple[Range, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kept part."""
        return tuple(sum(end - start for start, end in along) for along in self.ranges)


class CopyRange(NamedTuple):
    """Bytes to copy: from byte `source` of the version to byte `target` of what the rank holds."""

    source: int
    target: int
    num_bytes: int


class SlicePlan(msgspec.Struct, frozen=True, dict=True):
    """The slices that one rank keeps of versions with this layout.

    A rank of two that holds the first half of a matrix's rows, and a bias whole:

        plan = plan_slices(layout, rules, {"tensor": MeshRank(0, 2)})
        held = bytearray(plan.slice_layout.num_bytes)
        for source, target, num_bytes in plan.copies(bucket):            # bucket 0, 1, 2 …
            held[target : target + num_bytes] = version[source : source + num_bytes]

    Attributes:
        layout: of the version.
        slices: of the tensors that this rank keeps wholly or in part, in the layout's order.
    """

    layout: WeightsLayout
    slices: tuple[TensorSlice, ...]

    @cached_property
    def slice_layout(self) -> WeightsLayout:
        """The layout of the kept parts in this rank's memory, under the same names."""
        tensors = self.layout.tensors
        kept = (TensorShape(tensors[s.index].name, tensors[s.index].dtype, s.shape) for s in self.slices)
        return plan_layout(kept, self.layout.bucket_bytes, self.layout.large_bytes)

    def copies(self, bucket: int) -> Iterator[CopyRange]:
        """The byte ranges that this rank copies from one bucket, as long as possible, ascending in `target`."""
        first, last = self.layout.bucket_range(bucket)
        for kept, held in zip(self.slices, self.slice_layout.tensors, strict=True):
            tensor = self.layout.tensors[kept.index]
            if tensor.end <= first or tensor.start >= last:
                continue
            target = held.start
            for start, num_bytes in _runs(tensor, kept):
                low, high = max(start, first), min(start + num_bytes, last)
                if low < high:
                    yield CopyRange(low, target + low - start, high - low)
                target += num_bytes

    @cached_property
    def buckets(self) -> tuple[int, ...]:
        """The buckets that hold bytes of this rank; a receiver that fetches buckets one by one can skip the others."""
        return tuple(b for b in range(self.layout.num_buckets) if next(self.copies(b), None) is not None)


def plan_slices(layout: WeightsLayout, rules: Sequence[SliceRule], mesh: dict[str, MeshRank]) -> SlicePlan:
    """Plan the slices that a rank keeps of versions with this layout.

    Args:
        layout: of the version.
        rules: of the model's family; the first whose pattern matches a tensor's whole name decides.
        mesh: the rank's place along every dimension that the rules name.

    Raises:
        ValueError: no rule for a tensor, a dimension that the mesh lacks, or sizes that ranks cannot share equally.
    """
    patterns = [(re.compile(rule.pattern), rule) for rule in rules]
    slices = []
    for index, tensor in enumerate(layout.tensors):
        found = next(((m, rule) for pattern, rule in patterns if (m := pattern.fullmatch(tensor.name))), None)
        if found is None:
            raise ValueError(f"tensor {tensor.name}: no rule says which rank keeps it")
        match, rule = found
        try:
            if all(_owns(owned, match, mesh) for owned in rule.owned):
                slices.append(TensorSlice(index, _cut(tensor.shape, rule.cuts, mesh)))
        except (ValueError, LookupError) as error:
            raise ValueError(f"tensor {tensor.name}: {error}") from error
    return SlicePlan(layout, tuple(slices))


def _place(dimension: str, mesh: dict[str, MeshRank]) -> MeshRank:
    if dimension not in mesh:
        raise ValueError(f"the mesh has no dimension {dimension}, only {', '.join(sorted(mesh)) or 'none'}")
    return mesh[dimension]


def _owns(owned: Owned, match: re.Match[str], mesh: dict[str, MeshRank]) -> bool:
    place = _place(owned.dimension, mesh)
    if "number" not in match.re.groupindex:
        raise ValueError(f"the pattern {match.re.pattern} has no group `number`")
    number = int(match["number"])
    if owned.count % place.size:
        raise ValueError(f"{owned.count} cannot be owned by {place.size} ranks of {owned.dimension} in equal numbers")
    if not number < owned.count:
        raise ValueError(f"number {number}, of only {owned.count}")
    return number // (owned.count // place.size) == place.rank


def _cut(shape: tuple[int, ...], cuts: Iterable[Cut], mesh: dict[str, MeshRank]) -> tuple[tuple[Range, ...], ...]:
    ranges: list[tuple[Range, ...]] = [(Range(0, size),) for size in shape]
    cut_axes = set()
    for cut in cuts:
        if not 0 <= cut.axis < len(shape) or cut.axis in cut_axes:
            raise ValueError(f"axis {cut.axis} of shape {shape} cannot be cut, or is cut twice")
        cut_axes.add(cut.axis)
        blocks = cut.blocks or (shape[cut.axis],)
        if sum(blocks) != shape[cut.axis]:
            raise ValueError(f"blocks {blocks} do not add up to axis {cut.axis} of shape {shape}")
        place = _place(cut.dimension, mesh)
        parts = []
        start = 0
        for block in blocks:
            low, high = _part(block, cut, place)
            if low < high:
                parts.append(Range(start + low, start + high))
            start += block
        ranges[cut.axis] = _joined(parts)
    return tuple(ranges)


def _part(block: int, cut: Cut, place: MeshRank) -> Range:
    """This rank's part of one block, in values from the block's start."""
    if cut.unit < 1 or block % cut.unit:
        raise ValueError(f"a block of {block} does not consist of units of {cut.unit}")
    num_units = block // cut.unit
    if num_units % place.size == 0:
        each = num_units // place.size
        return Range(place.rank * each * cut.unit, (place.rank + 1) * each * cut.unit)
    if num_units and place.size % num_units == 0:
        unit = place.rank // (place.size // num_units)
        return Range(unit * cut.unit, (unit + 1) * cut.unit)
    raise ValueError(
        f"{num_units} units along axis {cut.axis} cannot be shared equally by {place.size} ranks of {cut.dimension}"
    )


def _joined(parts: Iterable[Range]) -> tuple[Range, ...]:
    joined: list[Range] = []
    for part in parts:
        if joined and joined[-1].end == part.start:
            joined[-1] = Range(joined[-1].start, part.end)
        else:
            joined.append(part)
    return tuple(joined)


def _runs(tensor: TensorSpec, kept: TensorSlice) -> Iterator[tuple[int, int]]:
    """The kept runs of bytes as (start in the version, length), in the order of the kept tensor's own bytes."""
    whole = [along == (Range(0, size),) for along, size in zip(kept.ranges, tensor.shape, strict=True)]
    # Axes behind the last one that is cut are contiguous with it.
    last = max((axis for axis, is_whole in enumerate(whole) if not is_whole), default=-1)
    item = ITEM_BYTES[tensor.dtype]
    if last < 0:
        if tensor.num_bytes:
            yield tensor.start, tensor.num_bytes
        return
    inner = prod(tensor.shape[last + 1 :]) * item
    strides = [prod(tensor.shape[axis + 1 :]) * item for axis in range(last)]
    outer = ([i for low, high in kept.ranges[axis] for i in range(low, high)] for axis in range(last))
    for place in product(*outer):
        base = tensor.start + sum(i * stride for i, stride in zip(place, strides, strict=True))
        for low, high in kept.ranges[last]:
            if (high - low) * inner:
                yield base + low * inner, (high - low) * inner

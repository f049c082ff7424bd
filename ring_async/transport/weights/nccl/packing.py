"""What the sender broadcasts, bucket after bucket: large tensors from where they lie, the rest from slots.

    tensors ── large, on this device ───────────────────────▶ broadcast      (while they are held)
       │  └─── copied and hashed beside it ──▶ slot ─────────▶ broadcast      (once they are released)
       └── small ones, other devices' ──▶ slot ─────────────▶ broadcast

Owns: the slots, the marks that say when a bucket's slot is filled and when it is free, who holds the tensors. Does not
own: the broadcast itself.

With as many slots as buckets a version stays whole on the device after its tensors have changed, so that members can
have it at any time. With two, a version costs no more memory than that; it can be sent only while its tensors are
unchanged.

Invariants: a slot is filled again only after its bucket was sent. Checksums are of the bytes that are sent. Tensors are
released when they are copied and no broadcast reads them. Calls are safe from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from ring_async.core.weights.plan import Piece, WeightsLayout
from ring_async.errors import WeightsError
from ring_async.transport.weights.nccl.device import VECTOR_BYTES, Lane, Mark, Part, WeightDevice
from ring_async.transport.weights.tensors import flatten

NUM_LEAN_SLOTS = 2


class Slots:
    """Memory for buckets, kept from version to version.

    Args:
        device: where it lies.
        is_retaining: as many slots as buckets, or `NUM_LEAN_SLOTS`.
    """

    def __init__(self, device: WeightDevice, *, is_retaining: bool) -> None:
        self.device = device
        self.is_retaining = is_retaining
        self.lane = device.lane()
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._plan: tuple[WeightsLayout, list[int], _Plan] | None = None

    def take(self, layout: WeightsLayout) -> torch.Tensor:
        """Memory for a version's slots, uint8; what was in it is lost."""
        num_bytes = layout.num_bytes
        if not self.is_retaining:
            num_bytes = min(num_bytes, NUM_LEAN_SLOTS * layout.bucket_bytes)
        if self._memory.numel() < num_bytes:
            self._memory = torch.empty(0, dtype=torch.uint8)
            self._plan = None
            self._memory = self.device.empty(num_bytes)
        return self._memory[:num_bytes]

    def plan(self, layout: WeightsLayout, tensors: Sequence[torch.Tensor]) -> _Plan:
        """How to pack these tensors; computed anew only if they lie elsewhere than the last version's."""
        addresses = [tensor.data_ptr() for tensor in tensors]
        if self._plan is None or self._plan[0] is not layout or self._plan[1] != addresses:
            held = [tensor.data_ptr() if self.device.holds(tensor) else 0 for tensor in tensors]
            plan = _Plan(self.lane, layout, held, self._memory.data_ptr(), self.is_retaining)
            self._plan = (layout, addresses, plan)
        return self._plan[2]


class Packing:
    """One version on its way out.

    Args:
        slots: to pack into; only one packing may use them at a time.
        layout: of the version.
        tensors: in the layout's order, contiguous.
        callers_mark: after which the tensors are complete.
    """

    def __init__(
        self, slots: Slots, layout: WeightsLayout, tensors: Sequence[torch.Tensor], callers_mark: Mark
    ) -> None:
        self.layout = layout
        self._is_retaining = slots.is_retaining
        self._tensors = tensors
        self._memory = slots.take(layout)
        self._plan = slots.plan(layout, tensors)
        self._lane: Lane = slots.lane
        self._lane.after(callers_mark)
        self._sums = self._lane.zeros(layout.num_buckets)
        self._lock = threading.Lock()
        self._num_filled = 0
        self._num_hashed = 0
        self._filled: dict[int, Mark] = {}
        self._sent: dict[int, Mark] = {}
        self._holding = threading.Condition()
        self._num_holders = 0
        self._is_leaving = False

    # -- for a broadcast

    def hold(self) -> bool:
        """Keep the tensors as they are until `stop_holding`. False: no need, the slots hold the whole version."""
        with self._holding:
            if self._is_leaving or not self._plan.is_any_direct:
                return False
            self._num_holders += 1
            return True

    def stop_holding(self) -> None:
        """Undo one `hold`."""
        with self._holding:
            self._num_holders -= 1
            self._holding.notify_all()

    def bucket(self, bucket: int, *, is_held: bool) -> tuple[list[tuple[int, int]], Mark]:
        """What to broadcast, in the order of `WeightsLayout.sends`, and after which mark.

        With two slots, buckets must be asked for in order, each hashed and `sent` before the next but one.

        Args:
            bucket: its number.
            is_held: whether the caller holds the tensors.

        Returns:
            Address and length of each part; when they may be read.
        """
        with self._lock:
            self._fill_up_to(bucket)
            sends = self._plan.buckets[bucket].sends
            return [((is_held and here) or slot, num_bytes) for here, slot, num_bytes in sends], self._filled[bucket]

    def hash(self, bucket: int) -> None:
        """Queue the hashing of a bucket, and of those before it; retained, its large tensors are copied on the way."""
        with self._lock:
            self._fill_up_to(bucket)
            if self._num_hashed <= bucket:
                self._lane.fold64(self._plan.late(self._num_hashed, bucket + 1), self._sums, "beside")
                self._num_hashed = bucket + 1

    def sent(self, bucket: int, mark: Mark) -> None:
        """The bucket's slot is free after this mark."""
        with self._lock:
            self._sent[bucket] = mark

    def checksums(self) -> tuple[torch.Tensor, Mark]:
        """fold64 of every bucket that was asked for, on the host, and when they are there."""
        with self._lock:
            return self._lane.fetch(self._sums), self._lane.mark()

    def restart(self) -> None:
        """Begin again with the first bucket, where slots were used more than once."""
        with self._lock:
            if not self._is_retaining:
                self._num_filled = self._num_hashed = 0
                self._lane.clear([self._sums])

    # -- for the thread that publishes

    def pack_all(self) -> Mark:
        """Queue whatever is left to do; the mark says when the tensors may change. Needs a slot for each bucket."""
        self.hash(self.layout.num_buckets - 1)
        with self._lock:
            return self._lane.mark()

    def release(self, timeout_s: float) -> None:
        """Release the tensors, once no broadcast holds them.

        Raises:
            WeightsError: a broadcast still holds them at the end of `timeout_s`.
        """
        with self._holding:
            self._is_leaving = True
            if not self._holding.wait_for(lambda: self._num_holders == 0, timeout_s):
                raise WeightsError("the broadcast under way does not end")
        with self._lock:
            self._tensors = ()

    def _fill_up_to(self, bucket: int) -> None:
        if self._is_retaining:
            bucket = self.layout.num_buckets - 1  # All at once; it is little.
        while self._num_filled <= bucket:
            end = bucket + 1
            if not self._is_retaining:
                end = self._num_filled + 1
                if end > NUM_LEAN_SLOTS:
                    self._lane.after(self._sent[self._num_filled - NUM_LEAN_SLOTS])
            self._fill(self._num_filled, end)
            self._num_filled = end

    def _fill(self, first: int, end: int) -> None:
        """Copy into the slots the bytes that cannot be broadcast from where their tensors lie."""
        plans = self._plan.buckets[first:end]
        gaps = [self._memory[gap] for plan in plans for gap in plan.gaps]
        copies = [copy for plan in plans for copy in plan.copies]
        if gaps:
            self._lane.clear(gaps)
        if copies:
            contents = [flatten(self._tensors[tensor])[source] for _, tensor, source in copies]
            self._lane.copy([self._memory[target] for target, _, _ in copies], contents)
        self._lane.fold64(self._plan.early(first, end), self._sums, "ahead")
        mark = self._lane.mark()
        self._filled |= dict.fromkeys(range(first, end), mark)


@dataclass(slots=True)
class _BucketPlan:
    """How one bucket is packed. Slices are of bytes: of the slots' memory, or of a tensor."""

    sends: list[tuple[int, int, int]] = field(default_factory=list)
    """The parts to broadcast: address in the tensor, or 0 if only the slot can be sent; address in the slot; bytes."""
    gaps: list[slice] = field(default_factory=list)
    """Bytes between tensors, to be filled with zeros."""
    copies: list[tuple[slice, int, slice]] = field(default_factory=list)
    """Copies that the hashing kernel cannot make: target in the slots, index of the tensor, its bytes."""
    early: list[Part] = field(default_factory=list)
    """Parts that the kernel copies into the slot and hashes before the bucket can be broadcast."""
    late: list[Part] = field(default_factory=list)
    """Parts that the kernel hashes, and copies into the slot if the version is retained, beside the broadcast."""


class _Plan:
    """How to pack a layout, computed once for as long as its tensors stay at the same addresses.

    Args:
        lane: that will pack.
        layout: of the version.
        addresses: of its tensors; 0: not on this device.
        memory: address of the slots.
        is_retaining: as in `Slots`.
    """

    def __init__(
        self, lane: Lane, layout: WeightsLayout, addresses: list[int], memory: int, is_retaining: bool
    ) -> None:
        self._layout = layout
        self._addresses = addresses
        self._memory = memory
        self._is_retaining = is_retaining
        self.buckets = [self._plan_bucket(bucket) for bucket in range(layout.num_buckets)]
        self.is_any_direct = any(here for plan in self.buckets for here, _, _ in plan.sends)
        early = [part for plan in self.buckets for part in plan.early]
        late = [part for plan in self.buckets for part in plan.late]
        self._table = lane.tabulate(early + late)
        self._early = list(accumulate((len(plan.early) for plan in self.buckets), initial=0))
        self._late = list(accumulate((len(plan.late) for plan in self.buckets), initial=len(early)))

    def early(self, first: int, end: int) -> torch.Tensor:
        """The early parts of buckets `[first, end)`, as `Lane.fold64` takes them."""
        return self._table[self._early[first] : self._early[end]]

    def late(self, first: int, end: int) -> torch.Tensor:
        """The late parts of buckets `[first, end)`, likewise."""
        return self._table[self._late[first] : self._late[end]]

    def _plan_bucket(self, bucket: int) -> _BucketPlan:
        layout = self._layout
        first, _ = layout.bucket_range(bucket)
        slot = (bucket if self._is_retaining else bucket % NUM_LEAN_SLOTS) * layout.bucket_bytes
        plan = _BucketPlan()
        for send in layout.sends[bucket]:
            start = send.start - first
            here, there = self._address_of(send), self._memory + slot + start
            plan.sends.append((here, there, send.num_bytes))
            if here:
                plan.late.append(Part(here, there if self._is_retaining else 0, send.num_bytes, start, bucket))
                continue
            for piece in layout.pieces(send.start, send.start + send.num_bytes):
                start = piece.start - first
                here, there = self._address_of(piece), self._memory + slot + start
                if here and piece.num_bytes % VECTOR_BYTES == 0:
                    plan.early.append(Part(here, there, piece.num_bytes, start, bucket))
                    continue
                target = slice(slot + start, slot + start + piece.num_bytes)
                if piece.tensor is None:
                    plan.gaps.append(target)
                else:
                    plan.copies.append((target, piece.tensor, slice(piece.offset, piece.offset + piece.num_bytes)))
                # Odd lengths are followed by zeros up to an even one: hashed together.
                before = plan.late[-1] if plan.late else None
                if before is not None and before.source + before.num_bytes == there:
                    plan.late[-1] = before._replace(num_bytes=before.num_bytes + piece.num_bytes)
                else:
                    plan.late.append(Part(there, 0, piece.num_bytes, start, bucket))
        return plan

    def _address_of(self, piece: Piece) -> int:
        if piece.tensor is None or not self._addresses[piece.tensor]:
            return 0
        return self._addresses[piece.tensor] + piece.offset

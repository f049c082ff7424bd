"""The sender's buckets on the device: packed from tensors one after another, while earlier ones are being sent.

Owns: the slots that buckets are packed into, and the marks that say when a bucket is packed and when its slot is free.
Does not own: the broadcast itself.

With as many slots as buckets a version stays whole on the device after its tensors have changed, so that members can
have it at any time. With two, a bucket is packed while the one before is sent, and a version costs no more memory than
that; it can be sent only while its tensors are unchanged.

Invariants: a slot is packed again only after its bucket was sent. Checksums are of the packed bytes. Calls are safe
from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec
import torch

from ring_async.core.weight_plan import Layout
from ring_async.transport.weights import flatten
from ring_async.transport.weights_device import Lane, Mark, Source, WeightDevice

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
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, layout: Layout) -> torch.Tensor:
        """Memory for a version's slots, uint8; what was in it is lost."""
        num_bytes = layout.num_bytes
        if not self.is_retaining:
            num_bytes = min(num_bytes, NUM_LEAN_SLOTS * layout.bucket_bytes)
        if self._memory.numel() < num_bytes:
            self._memory = torch.empty(0, dtype=torch.uint8)
            self._memory = self.device.empty(num_bytes)
        return self._memory[:num_bytes]


class Packing:
    """One version on its way out.

    Args:
        slots: to pack into; only one packing may use them at a time.
        layout: of the version.
        tensors: in the layout's order.
        callers_mark: after which the tensors are complete.
    """

    def __init__(self, slots: Slots, layout: Layout, tensors: Sequence[torch.Tensor], callers_mark: Mark) -> None:
        self.layout = layout
        self.encoded_layout = msgspec.msgpack.encode(layout)
        self._tensors = tensors
        self._flat: tuple[int, torch.Tensor] | None = None
        """The tensor packed last, as bytes: a large one is cut into many pieces."""
        self._memory = slots.take(layout)
        self._num_slots = layout.num_buckets if slots.is_retaining else NUM_LEAN_SLOTS
        self._lane: Lane = slots.device.lane()
        self._lane.after(callers_mark)
        self._sums = self._lane.zeros(layout.num_buckets)
        self._lock = threading.Lock()
        self._num_packed = 0
        self._packed: dict[int, Mark] = {}
        self._sent: dict[int, Mark] = {}

    def bucket(self, bucket: int) -> tuple[torch.Tensor, Mark]:
        """A bucket's bytes, and when they are there; queues the packing of it and of the next one.

        With two slots, buckets must be asked for in order, each `sent` before the next is asked for.
        """
        with self._lock:
            while self._num_packed <= min(bucket + 1, self.layout.num_buckets - 1):
                self._pack(self._num_packed)
                self._num_packed += 1
            return self._view(bucket), self._packed[bucket]

    def pack_all(self) -> Mark:
        """Queue the packing of every bucket; the mark says when the tensors may change. Needs a slot for each."""
        for bucket in range(self.layout.num_buckets):
            self.bucket(bucket)
        return self.mark()

    def sent(self, bucket: int, mark: Mark) -> None:
        """The bucket's slot is free after this mark."""
        with self._lock:
            self._sent[bucket] = mark

    def mark(self) -> Mark:
        """When all that was asked for is packed, and `checksums` may be read."""
        with self._lock:
            return self._lane.mark()

    def checksums(self) -> tuple[int, ...]:
        """fold64 of every bucket, unsigned."""
        return self._lane.read(self._sums)

    def restart(self) -> None:
        """Begin again with the first bucket, where slots were used more than once."""
        with self._lock:
            if self._num_slots < self.layout.num_buckets:
                self._num_packed = 0
                self._sums = self._lane.zeros(self.layout.num_buckets)

    def release(self) -> None:
        """Let go of the tensors."""
        with self._lock:
            self._tensors = ()
            self._flat = None

    def _view(self, bucket: int) -> torch.Tensor:
        start, end = self.layout.bucket_range(bucket)
        first = (bucket % self._num_slots) * self.layout.bucket_bytes
        return self._memory[first : first + end - start]

    def _pack(self, bucket: int) -> None:
        before = bucket - self._num_slots
        if before >= 0:
            self._lane.after(self._sent[before])
        first, _ = self.layout.bucket_range(bucket)
        sources = []
        for start, num_bytes, tensor, offset in self.layout.pieces(bucket):
            content = None if tensor is None else self._bytes_of(tensor)[offset : offset + num_bytes]
            sources.append(Source(start - first, num_bytes, content))
        self._lane.pack(self._view(bucket), sources, self._sums, bucket)
        self._packed[bucket] = self._lane.mark()

    def _bytes_of(self, tensor: int) -> torch.Tensor:
        if self._flat is None or self._flat[0] != tensor:
            self._flat = (tensor, flatten(self._tensors[tensor]))
        return self._flat[1]

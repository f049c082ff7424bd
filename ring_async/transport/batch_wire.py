"""The wire format of a packed batch: its plan as MessagePack in a buffer of its own, then its arrays.

Owns: this format. A plan names every sequence (180 bytes each), so in a message's header it would bound the batch by
`transport.max_header_bytes`, which is for small things.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ring_async.batches import BatchPlan, PackedBatch
from ring_async.columns import Buffer

_plan_encoder = msgspec.msgpack.Encoder()
_plan_decoder = msgspec.msgpack.Decoder(BatchPlan)


def batch_buffers(batch: PackedBatch) -> tuple[Buffer, ...]:
    """The buffers of `BatchReady`; the arrays are not copied."""
    return (_plan_encoder.encode(batch.plan), *batch.buffers)


def read_batch(buffers: Sequence[Buffer]) -> PackedBatch:
    """A batch around received buffers, without a copy of its arrays.

    Raises:
        ValueError: the first is no plan, or the others do not fit it.
    """
    if not buffers:
        raise ValueError("a batch without buffers: its plan is missing")
    plan = _plan_decoder.decode(buffers[0])  # type: ignore[arg-type]
    return PackedBatch.from_buffers(plan, buffers[1:])

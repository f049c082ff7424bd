"""A batch arrives as it was sent; what is none is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ring_async.batches import PACKED_COLUMNS, PackedBatch
from ring_async.testing.builders import make_group, make_plan
from ring_async.transport.batch_wire import batch_buffers, read_batch


def make_batch() -> PackedBatch:
    plan = make_plan([make_group("g0")])
    shape = (plan.num_rows, plan.token_capacity)
    return PackedBatch(plan, *(np.full(shape, n, column.dtype) for n, column in enumerate(PACKED_COLUMNS)))


def test_a_batch_arrives_as_it_was_sent():
    batch = make_batch()
    received = read_batch([memoryview(buffer) for buffer in batch_buffers(batch)])
    assert received.plan == batch.plan
    for sent, got in zip(batch.buffers, received.buffers, strict=True):
        np.testing.assert_array_equal(sent, got)


@pytest.mark.parametrize("spoilt", [[], [b""], [b"\xc1"], [b"\x93\x01\x02\x03"]])
def test_what_is_no_plan_is_refused(spoilt: list[bytes]):
    with pytest.raises(ValueError):  # noqa: PT011 (msgspec's own words)
        read_batch(spoilt)


def test_arrays_that_do_not_fit_the_plan_are_refused():
    plan, *arrays = batch_buffers(make_batch())
    with pytest.raises(ValueError, match="7 buffers, expected 8"):
        read_batch([plan, *arrays[1:]])

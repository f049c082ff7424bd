"""A batch arrives as it was sent; what is none is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ring_async.batches import PACKED_COLUMNS, PackedBatch
from ring_async.columns import Column
from ring_async.core.packing import pack_batch
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


def test_a_batch_travels_with_columns_that_nobody_knows():
    columns = [Column("routed_experts", "uint8", 12), Column("turn_rewards", "float64")]
    groups = [make_group("g0", columns=columns), make_group("g1", columns=columns[:1])]
    plan = msgspec.structs.replace(make_plan(groups), columns=tuple(columns))
    batch = pack_batch(plan, groups)
    received = read_batch([np.asarray(buffer).tobytes() for buffer in batch_buffers(batch)])
    assert received.plan == plan
    assert received.columns["routed_experts"].shape == (4, 64, 12)
    for name, array in batch.columns.items():
        assert received.columns[name].tobytes() == array.tobytes()
    plan_buffer, *arrays = batch_buffers(batch)
    with pytest.raises(ValueError, match="plan 1: 9 buffers, expected 10"):
        read_batch([plan_buffer, *arrays[:-1]])
    with pytest.raises(ValueError, match=r"plan 1: 8 bytes of column turn_rewards \(float64 × 1\), expected 2048"):
        read_batch([plan_buffer, *arrays[:-1], bytes(8)])


def test_a_plan_with_an_unknown_dtype_is_refused():
    plan = msgspec.structs.replace(make_batch().plan, columns=(Column("kv_age", "object"),))
    _, *arrays = batch_buffers(make_batch())
    with pytest.raises(ValueError, match="plan 1: column kv_age has dtype 'object'; allowed are"):
        read_batch([msgspec.msgpack.encode(plan), *arrays, bytes(8)])

"""The nouns: a header describes its arrays exactly, and nothing is copied on the way over the wire."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ring_async.batches import BatchPlan, PackedBatch, TokenInterval
from ring_async.testing.builders import make_group, make_plan, make_segments, version
from ring_async.types import Group, GroupHeader, PolicyVersion, Segment, TrajectoryHeader


def test_versions_order_by_lineage_first():
    assert PolicyVersion(0, 99) < PolicyVersion(1, 3) < PolicyVersion(1, 4)
    assert str(PolicyVersion(1, 4)) == "1.4"


def test_the_oldest_version_is_the_smallest_over_the_segments():
    header = TrajectoryHeader("t", 6, "stop", (Segment(0, 2, PolicyVersion(1, 0)), Segment(2, 6, PolicyVersion(0, 9))))
    assert header.oldest_version == PolicyVersion(0, 9)


def test_a_group_yields_its_responses_as_views():
    group = make_group(lengths=[2, 3])
    first, second = group
    np.testing.assert_array_equal(first.response_ids, group.response_ids[:2])
    np.testing.assert_array_equal(second.behavior_logprobs, group.behavior_logprobs[2:])
    assert np.shares_memory(second.loss_mask, group.loss_mask)
    assert group.header.num_response_tokens == 5


def test_a_group_travels_as_header_and_buffers_without_a_copy():
    group = make_group(rewards=[1, 0, 0.5], lengths=[2, 3, 1], versions=[[(1, 0), (1, 1)], 1, 2])
    header = msgspec.msgpack.decode(msgspec.msgpack.encode(group.header), type=GroupHeader)
    received = [memoryview(np.asarray(buffer).tobytes()) for buffer in group.buffers]
    rebuilt = Group.from_buffers(header, received)
    assert rebuilt.header == group.header
    for name in ("prompt_ids", "response_ids", "behavior_logprobs", "loss_mask"):
        np.testing.assert_array_equal(getattr(rebuilt, name), getattr(group, name))
        assert getattr(rebuilt, name).dtype == getattr(group, name).dtype
    assert np.shares_memory(rebuilt.response_ids, np.frombuffer(received[1], np.int32))


def test_joining_the_responses_of_a_group_gives_the_group():
    group = make_group(rewards=[1, 0, 0], lengths=[2, 3, 4])
    joined = Group.from_trajectories(group.header, group.prompt_ids, list(group))
    joined.check()
    assert joined.header == group.header
    np.testing.assert_array_equal(joined.response_ids, group.response_ids)


def test_buffers_that_do_not_fit_the_header_are_refused():
    group = make_group("g7")
    with pytest.raises(ValueError, match="group g7: 3 buffers, expected 4"):
        Group.from_buffers(group.header, group.buffers[:3])
    with pytest.raises(ValueError, match="group g7: buffer size must be a multiple"):
        Group.from_buffers(group.header, [b"123", *group.buffers[1:]])
    with pytest.raises(ValueError, match="group g7: 2 prompt tokens, header says 3"):
        Group.from_buffers(group.header, [group.prompt_ids[:2], *group.buffers[1:]])
    with pytest.raises(ValueError, match="group g7: 7 loss_mask, header says 8"):
        Group.from_buffers(group.header, [*group.buffers[:3], group.loss_mask[:7]])


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ((Segment(0, 2, version(0)), Segment(3, 4, version(0))), "leave a gap at 2"),
        ((Segment(0, 3, version(0)), Segment(2, 4, version(0))), "leave a gap at 3"),
        ((Segment(0, 3, version(0)),), "end at 3"),
        ((Segment(0, 0, version(0)), Segment(0, 4, version(0))), "leave a gap at 0"),
        ((), "end at 0"),
    ],
)
def test_segments_must_cover_a_response_exactly(segments, said):
    group = make_group(lengths=4)
    first, second = group.header.trajectories
    header = msgspec.structs.replace(
        group.header, trajectories=(msgspec.structs.replace(first, segments=segments), second)
    )
    with pytest.raises(ValueError, match=said):
        Group.from_buffers(header, group.buffers)


def test_segments_that_cover_a_response_pass():
    assert make_segments(4, [(1, 0), (3, 2)]) == (Segment(0, 1, version(0)), Segment(1, 4, version(2)))
    make_group(lengths=4, versions=[(1, 0), (3, 2)]).check()


def packed(plan: BatchPlan) -> PackedBatch:
    shape = (plan.num_rows, plan.token_capacity)
    arrays = [
        np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for dtype in (np.int32, np.int32, np.int32, np.uint8, np.float32, np.float32, np.int32, np.float32)
    ]
    return PackedBatch(plan, *arrays)


def test_a_packed_batch_travels_as_plan_and_buffers():
    plan = make_plan([make_group()])
    batch = packed(plan)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=BatchPlan)
    rebuilt = PackedBatch.from_buffers(decoded, [np.asarray(buffer).tobytes() for buffer in batch.buffers])
    assert rebuilt.plan == plan
    assert rebuilt.input_ids.shape == (2, 64)
    for before, after in zip(batch.buffers, rebuilt.buffers, strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_packed_batch_of_the_wrong_size_is_refused():
    batch = packed(make_plan([make_group()], plan_number=5))
    with pytest.raises(ValueError, match="plan 5: 7 buffers, expected 8"):
        PackedBatch.from_buffers(batch.plan, batch.buffers[:7])
    with pytest.raises(ValueError, match="cannot reshape"):
        PackedBatch.from_buffers(batch.plan, [batch.input_ids[:1], *batch.buffers[1:]])


def test_headers_are_frozen_and_intervals_sort():
    with pytest.raises(AttributeError):
        make_group().header.seed = 3
    assert sorted([TokenInterval("b", 0, 1), TokenInterval("a", 4, 5), TokenInterval("a", 0, 4)])[0].end == 4

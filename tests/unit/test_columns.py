"""Token columns: described exactly, refused when they are not allowed, and carried bit by bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.columns import (
    DTYPES,
    MAX_COLUMNS,
    NO_COLUMNS,
    Column,
    check_arrays,
    check_columns,
    concatenate_columns,
    describe,
    read_columns,
    slice_columns,
)
from ring_async.core.replay.group_bundle import bundle, bundle_partials, unbundle, unbundle_partials
from ring_async.core.replay.partials import PartialHeader, PartialResponse
from ring_async.testing.builders import make_column, make_generation, make_group, make_segments
from ring_async.types import Group, GroupHeader, Trajectory

any_column = st.builds(
    Column,
    st.from_regex(r"x_[a-z0-9_]{0,20}", fullmatch=True),
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 9),
)
any_columns = st.lists(any_column, max_size=4, unique_by=lambda column: column.name)


def same_bits(ours, theirs):
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.shape == theirs[name].shape
        assert array.tobytes() == theirs[name].tobytes()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column("kv_age", "object"), "column kv_age has dtype 'object'; allowed are float16, float32"),
        (Column("kv_age", ">i4"), "column kv_age has dtype '>i4'"),
        (Column("kv_age", "uint8", 0), "column kv_age has width 0; allowed are 1 to 65,536"),
        (Column("kv_age", "uint8", 1 << 17), "column kv_age has width 131072"),
        (Column("Kv Age", "uint8"), "column name 'Kv Age' is not of the form"),
        (Column("a" * 65, "uint8"), "is not of the form"),
        (Column("loss_mask", "uint8"), "two columns are called loss_mask"),
        (Column("turn", "uint8"), "two columns are called turn"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(column, said):
    with pytest.raises(ValueError, match=said) as caught:
        check_columns([Column("turn", "uint8"), column], "group g7")
    assert str(caught.value).startswith("group g7: ")


def test_the_number_of_columns_is_bounded():
    columns = [Column(f"c{number}", "uint8") for number in range(MAX_COLUMNS + 1)]
    check_columns(columns[:-1], "group g7")
    with pytest.raises(ValueError, match="17 optional columns, at most 16 are carried"):
        check_columns(columns, "group g7")


def test_bytes_that_do_not_fit_their_description_are_refused():
    described = [Column("routed_experts", "uint8", 6), Column("turn_rewards", "float32")]
    with pytest.raises(ValueError, match=r"g7: 23 bytes of column routed_experts \(uint8 × 6\), expected 24"):
        read_columns(described, [bytes(23), bytes(16)], "g7", 4)
    with pytest.raises(ValueError, match=r"g7: 15 bytes of column turn_rewards \(float32 × 1\), expected 16"):
        read_columns(described, [bytes(24), bytes(15)], "g7", 4)


def test_arrays_must_be_what_the_header_says():
    described = (Column("kv_age", "int32"),)
    check_arrays(described, {"kv_age": np.zeros(3, np.int32)}, "g7", 3)
    for wrong in (np.zeros(3, np.float32), np.zeros(3, ">i4"), np.zeros(4, np.int32), np.zeros((3, 1), np.int32)):
        with pytest.raises(ValueError, match="g7: column kv_age is"):
            check_arrays(described, {"kv_age": wrong}, "g7", 3)
    with pytest.raises(ValueError, match=r"g7: columns \['age'\], header says \['kv_age'\]"):
        check_arrays(described, {"age": np.zeros(3, np.int32)}, "g7", 3)


@settings(max_examples=50, deadline=None)
@given(columns=any_columns, lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_a_group_travels_with_its_columns_without_a_copy(columns, lengths):
    group = make_group("g0", rewards=[1.0] * len(lengths), lengths=lengths, columns=columns)
    header = msgspec.msgpack.decode(msgspec.msgpack.encode(group.header), type=GroupHeader)
    received = [memoryview(np.asarray(buffer).tobytes()) for buffer in group.buffers]
    rebuilt = Group.from_buffers(header, received)
    assert rebuilt.header == group.header
    same_bits(rebuilt.columns, group.columns)
    for array in rebuilt.columns.values():
        assert not array.flags.owndata
    joined = Group.from_trajectories(msgspec.structs.replace(header, columns=()), group.prompt_ids, list(group))
    assert joined.header == group.header
    same_bits(joined.columns, group.columns)
    same_bits(group.copy().columns, group.columns)


@settings(max_examples=50, deadline=None)
@given(per_group=st.lists(any_columns, max_size=3))
def test_a_bundle_of_groups_with_unlike_columns_comes_apart_as_it_was(per_group):
    groups = [make_group(f"g{n}", lengths=[2 + n, 3], columns=columns) for n, columns in enumerate(per_group)]
    found = unbundle([np.asarray(buffer).tobytes() for buffer in bundle(groups)])
    assert [group.header for group in found] == [group.header for group in groups]
    for ours, theirs in zip(found, groups, strict=True):
        same_bits(ours.columns, theirs.columns)
        np.testing.assert_array_equal(ours.response_ids, theirs.response_ids)


@settings(max_examples=50, deadline=None)
@given(per_piece=st.lists(any_columns, max_size=3))
def test_a_bundle_of_partial_responses_comes_apart_as_it_was(per_piece):
    pieces = []
    for number, columns in enumerate(per_piece):
        generation = make_generation(3 + number, seed=number)
        header = PartialHeader(f"g0/{number}", 0, 3 + number, make_segments(3 + number), tuple(columns))
        values = {column.name: make_column(column, 3 + number, seed=number) for column in columns}
        mask = np.ones(3 + number, np.uint8)
        pieces.append(
            PartialResponse(header, generation.response_ids, generation.behavior_logprobs, mask, values or NO_COLUMNS)
        )
    found = unbundle_partials([np.asarray(buffer).tobytes() for buffer in bundle_partials(pieces)])
    assert [piece.header for piece in found] == [piece.header for piece in pieces]
    for ours, theirs in zip(found, pieces, strict=True):
        same_bits(ours.columns, theirs.columns)


def test_a_spoilt_bundle_is_refused():
    buffers = bundle([make_group("g0", columns=[Column("kv_age", "uint16", 2)])])
    with pytest.raises(ValueError, match="a bundle with 0 optional columns, its headers describe 1"):
        unbundle(buffers[:-1])
    with pytest.raises(ValueError, match="damaged bundle"):
        unbundle([*buffers[:-1], bytes(7)])
    with pytest.raises(ValueError, match="group g0: column kv_age is"):
        unbundle([*buffers[:-1], bytes(8)])


def test_a_column_that_a_response_lacks_is_zero_there():
    ages = np.array([3, 4], np.uint8)
    columns = concatenate_columns([(2, {"kv_age": ages}), (3, NO_COLUMNS)], "group g0")
    np.testing.assert_array_equal(columns["kv_age"], np.array([3, 4, 0, 0, 0], np.uint8))
    assert describe(columns) == (Column("kv_age", "uint8"),)
    np.testing.assert_array_equal(slice_columns(columns, 1, 3)["kv_age"], [4, 0])


def test_responses_that_disagree_on_a_column_do_not_make_a_group():
    group = make_group("g0", lengths=[2, 2])
    first, second = group
    ages = [np.zeros(2, np.uint8), np.zeros((2, 3), np.uint8)]
    unlike = [
        Trajectory(one.header, one.response_ids, one.behavior_logprobs, one.loss_mask, {"kv_age": age})
        for one, age in zip((first, second), ages, strict=True)
    ]
    with pytest.raises(ValueError, match=r"group g0: column kv_age \(uint8 × 3\) differs from kv_age \(uint8 × 1\)"):
        Group.from_trajectories(group.header, group.prompt_ids, unlike)

"""The layout of a version: every byte once, in order; manifests that contradict themselves are refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.weights.plan import ALIGNMENT, ITEM_BYTES, Manifest, TensorSpec, WeightsLayout, plan_layout

shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
tensors = st.lists(st.tuples(st.sampled_from(sorted(ITEM_BYTES)), shapes), max_size=12)


def make_layout(*sizes: int, bucket_bytes: int = 128) -> WeightsLayout:
    return plan_layout([(f"t{i}", "uint8", (size,)) for i, size in enumerate(sizes)], bucket_bytes)


@given(tensors, st.integers(1, 1000))
def test_pieces_cover_every_byte_once_and_every_tensor_whole(drawn, bucket_bytes):
    layout = plan_layout([(str(i), dtype, shape) for i, (dtype, shape) in enumerate(drawn)], bucket_bytes)
    position = 0
    seen = [0] * len(drawn)
    for bucket in range(layout.num_buckets):
        start, end = layout.bucket_range(bucket)
        assert start == position
        for piece in layout.pieces(start, end):
            assert piece.start == position
            assert piece.num_bytes > 0
            if piece.tensor is not None:
                assert piece.offset == seen[piece.tensor]
                assert piece.start == layout.tensors[piece.tensor].start + piece.offset
                seen[piece.tensor] += piece.num_bytes
            position += piece.num_bytes
        assert position == end
    assert position == layout.num_bytes
    assert seen == [spec.num_bytes for spec in layout.tensors]
    assert all(spec.start % ALIGNMENT == 0 for spec in layout.tensors)


def test_tensors_are_aligned_and_buckets_are_equal_cuts():
    layout = make_layout(100, 1, 200)
    assert [spec.start for spec in layout.tensors] == [0, 128, 192]
    assert layout.num_bytes == 448
    assert [layout.bucket_range(i) for i in range(layout.num_buckets)] == [(0, 128), (128, 256), (256, 384), (384, 448)]


def test_a_piece_says_where_in_its_tensor_it_starts():
    layout = make_layout(300)
    assert [tuple(piece) for piece in layout.pieces(*layout.bucket_range(2))] == [(256, 44, 0, 256), (300, 20, None, 0)]


@given(tensors, st.integers(1, 1000), st.integers(ALIGNMENT, 300))
def test_sends_cover_every_byte_once_and_large_tensors_alone(drawn, bucket_bytes, large_bytes):
    layout = plan_layout([(str(i), dtype, shape) for i, (dtype, shape) in enumerate(drawn)], bucket_bytes, large_bytes)
    position = 0
    for bucket, sends in enumerate(layout.sends):
        assert sends[0].start == position == layout.bucket_range(bucket)[0]
        for send, following in zip(sends, [*sends[1:], None], strict=True):
            assert send.start == position
            assert send.num_bytes > 0
            assert not any(number % ALIGNMENT for number in send[:2])
            position += send.num_bytes
            if send.tensor is None:
                assert following is None or following.tensor is not None
            else:
                assert send.num_bytes > large_bytes - ALIGNMENT
                assert send.start == layout.tensors[send.tensor].start + send.offset
    assert position == layout.num_bytes


def test_a_large_tensors_odd_bytes_go_with_what_follows():
    layout = plan_layout([(str(i), "uint8", (size,)) for i, size in enumerate([200, 10, 64])], 1024, 64)
    assert [tuple(send) for send in layout.sends[0]] == [(0, 192, 0, 0), (192, 128, None, 0), (320, 64, 2, 0)]


def test_an_empty_version_has_no_buckets():
    assert make_layout().num_buckets == 0
    assert make_layout(0, 0).num_bytes == 0


def test_bucket_bytes_are_rounded_up_to_the_alignment():
    assert plan_layout([], 1).bucket_bytes == ALIGNMENT


@pytest.mark.parametrize(
    ("specs", "num_bytes", "message"),
    [
        ([TensorSpec("a", "uint8", (65,), 0), TensorSpec("b", "uint8", (1,), 64)], 128, "overlapping"),
        ([TensorSpec("a", "uint8", (1,), 32)], 128, "misaligned"),
        ([TensorSpec("a", "uint8", (1,), -64)], 128, "overlapping"),
        ([TensorSpec("a", "uint8", (129,), 0)], 128, "past the end"),
        ([TensorSpec("a", "complex64", (1,), 0)], 128, "complex64 cannot be sent"),
        ([TensorSpec("a", "uint8", (-1,), 0)], 128, "negative size"),
        ([TensorSpec("a", "uint8", (1,), 0), TensorSpec("a", "uint8", (1,), 64)], 128, "named twice"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(specs, num_bytes, message):
    with pytest.raises(ValueError, match=message):
        WeightsLayout(tuple(specs), num_bytes, 64)


def test_planning_refuses_unknown_dtypes_and_doubled_names():
    with pytest.raises(ValueError, match="tensor x: dtype quint8 cannot be sent"):
        plan_layout([("x", "quint8", (1,))], 64)
    with pytest.raises(ValueError, match="tensor x: named twice"):
        plan_layout([("x", "uint8", (1,)), ("x", "uint8", (1,))], 64)


def test_a_manifest_survives_the_wire():
    manifest = Manifest(make_layout(100, 200), "xxh3_64", (2**64 - 1, 0, 7), {"path": "somewhere"})
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(manifest.to_plain()))
    assert Manifest.from_plain(plain) == manifest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain.update(checksums=[1]),
        lambda plain: plain.pop("layout"),
        lambda plain: plain.update(checksum_kind="md5"),
        lambda plain: plain["layout"].update(bucket_bytes=0),
        lambda plain: plain["layout"].update(num_bytes="many"),
        lambda plain: plain["layout"].update(num_bytes=1),
    ],
)
def test_a_malformed_manifest_is_refused(spoil):
    plain = Manifest(make_layout(100, 200), "xxh3_64", (1, 2, 3)).to_plain()
    spoil(plain)
    with pytest.raises(ValueError, match="malformed manifest"):
        Manifest.from_plain(plain)

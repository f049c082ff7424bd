"""Deltas give back every bit, and the smallest encoding is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from ring_async.core.weights.delta import apply_delta, encode_delta

SIZE = 1 << 18


def make_bytes(size: int = SIZE, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def change_words(base, positions):
    new = base.copy()
    new.view(np.uint16)[positions] ^= 1
    return new


def round_trip(base, new):
    kind, payload = encode_delta(base, new)
    out = base.copy()
    apply_delta(kind, payload, out)
    np.testing.assert_array_equal(out, new)
    return kind, payload.size / max(new.size, 1)


@given(st.integers(0, 64), st.data())
def test_any_bytes_come_back_bit_for_bit(num_quads, data):
    pair = nps.arrays(np.uint8, 4 * num_quads, elements=st.integers(0, 3))
    round_trip(data.draw(pair), data.draw(pair))


def test_nothing_changed_costs_nothing():
    base = make_bytes()
    assert round_trip(base, base.copy()) == ("same", 0.0)


def test_few_changes_are_listed_by_their_distances():
    base = make_bytes()
    positions = np.random.default_rng(1).choice(SIZE // 2, SIZE // 200, replace=False)
    kind, ratio = round_trip(base, change_words(base, positions))
    assert kind == "gaps"
    assert ratio == pytest.approx(0.02, rel=0.01)


def test_a_distance_beyond_16_bits_is_bridged():
    base = make_bytes(1 << 19)
    for position in (0, 65534, 65535, 131070, 262143):
        kind, ratio = round_trip(base, change_words(base, [position]))
        assert kind == "gaps"
        assert ratio < 1e-4


def test_more_changes_are_marked_in_a_bitmap():
    base = make_bytes()
    kind, ratio = round_trip(base, change_words(base, slice(None, None, 8)))
    assert kind == "bitmap"
    assert ratio == pytest.approx(1 / 16 + 1 / 8)


def test_float32_steps_send_the_lower_halves_and_the_few_upper_ones():
    rng = np.random.default_rng(2)
    base = rng.normal(size=SIZE // 4).astype(np.float32)
    new = base - np.float32(1e-6) * rng.normal(size=base.size).astype(np.float32)
    kind, ratio = round_trip(base.view(np.uint8), new.view(np.uint8))
    assert kind.startswith("halves+")
    assert ratio < 0.56


def test_other_bytes_are_sent_as_they_are():
    assert round_trip(make_bytes(seed=3), make_bytes(seed=4)) == ("full", 1.0)


def test_bit_patterns_that_compare_unusually_survive():
    base = np.array([0x7FC0, 0x8000, 0x0000, 0x7FC1] * 8, dtype=np.uint16).view(np.uint8)
    new = np.array([0x7FC2, 0x0000, 0x8000, 0x7FC1] * 8, dtype=np.uint16).view(np.uint8)
    round_trip(base, new)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("same", [1]),
        ("full", [1, 2, 3]),
        ("gaps", [1, 0, 7]),
        ("gaps", [200, 0, 7, 7]),
        ("gaps", [0, 0, 7, 7]),
        ("bitmap", [255]),
        ("bitmap", [255, 0, 0, 0, 1]),
        ("halves+same", [1]),
        ("halves+halves+same", [0] * 32),
        ("sideways", []),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(kind, payload):
    with pytest.raises(ValueError, match="delta"):
        apply_delta(kind, np.array(payload, dtype=np.uint8), np.zeros(64, dtype=np.uint8))

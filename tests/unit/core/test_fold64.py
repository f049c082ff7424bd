"""The GPU's checksum: known values, and sensitive to what a broken transfer does."""

from __future__ import annotations

import numpy as np

from ring_async.core.fold64 import GOLDEN, ODD, fold64

MASK = 2**64 - 1


def fold_by_hand(words):
    total = 0
    for position, word in enumerate(words):
        x = (word + (position + 1) * GOLDEN) & MASK
        y = ((x ^ (x >> 32)) * ODD) & MASK
        total += y ^ (y >> 29)
    return total & MASK


def make_words(num_words=64):
    return np.random.default_rng(0).integers(0, 2**64, num_words, dtype=np.uint64)


def test_it_is_the_formula():
    words = make_words()
    assert fold64(words.view(np.uint8)) == fold_by_hand([int(word) for word in words])
    assert fold64(np.empty(0, dtype=np.uint8)) == 0


def test_every_single_bit_counts():
    words = make_words(4)
    whole = fold64(words.view(np.uint8))
    flipped = set()
    for bit in range(256):
        changed = words.copy()
        changed[bit // 64] ^= np.uint64(1 << (bit % 64))
        flipped.add(fold64(changed.view(np.uint8)))
    assert whole not in flipped
    assert len(flipped) == 256


def test_places_count():
    words = make_words()
    assert fold64(words.view(np.uint8)) != fold64(words[::-1].copy().view(np.uint8))
    assert fold64(np.zeros(64, dtype=np.uint8)) != fold64(np.zeros(128, dtype=np.uint8))

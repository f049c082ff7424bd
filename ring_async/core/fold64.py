"""`fold64`: a checksum that a GPU computes at the speed of its memory, and its definition in numpy.

xxHash is sequential within a lane of the input; `fold64` is a sum, which thousands of threads may compute in any order:

    fold64(w) = Σ_i mix(w_i + (i + 1) · GOLDEN)  mod 2^64,   mix(x) = y ⊕ (y ≫ 29),  y = (x ⊕ (x ≫ 32)) · ODD

over the 64-bit little-endian words `w_i` of a bucket. `mix` is a bijection, so any change confined to one word is
always detected; other changes, swapped words among them, go undetected with probability about 2^-64. The checksum
guards against faults, not against an adversary: CURVE and the host's own protection do that.
"""

from __future__ import annotations

import numpy as np

from ring_async.types import UInt8

GOLDEN = 0x9E3779B97F4A7C15
ODD = 0xD6E8FEB86659FD93


def fold64(content: UInt8, start: int = 0) -> int:
    """The checksum of a bucket or of a part of it; the checksums of the parts add up to the bucket's, modulo 2^64.

    Args:
        content: uint8 `[n]`, n a multiple of 8.
        start: position of `content` in the bucket, in bytes, a multiple of 8.

    Returns:
        An unsigned 64-bit number.
    """
    words = content.view(np.uint64)
    positions = np.arange(start // 8 + 1, start // 8 + words.size + 1, dtype=np.uint64)
    x = words + positions * np.uint64(GOLDEN)
    y = (x ^ (x >> np.uint64(32))) * np.uint64(ODD)
    return int(np.sum(y ^ (y >> np.uint64(29)), dtype=np.uint64))

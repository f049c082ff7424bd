"""What every contender of `bench_transport` moves: groups of 8 responses × 2,048 tokens."""

from __future__ import annotations

import numpy as np

from ring_async.types import Float32, Int32

GROUP_SIZE, NUM_TOKENS = 8, 2_048
GROUP_BYTES = GROUP_SIZE * NUM_TOKENS * (4 + 4)


def make_arrays() -> tuple[Int32, Float32]:
    """Token ids int32 and log-probabilities float32, both `[8, 2048]`, the same in every process."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 50_000, (GROUP_SIZE, NUM_TOKENS), dtype=np.int32)
    return ids, random.standard_normal((GROUP_SIZE, NUM_TOKENS), dtype=np.float32)

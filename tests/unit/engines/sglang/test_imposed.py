"""Imposed lengths: the same for the same seed, with the mean that was asked for, and a stop where they end."""

from __future__ import annotations

import numpy as np
import pytest

from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang.imposed import imposed_length
from ring_async.engines.sglang.response import Leg, Response
from ring_async.engines.sglang.stream import Chunk, Finish, MetaInfo
from ring_async.types import PolicyVersion, SamplingParams


def test_lengths_have_the_mean_and_stay_within_the_longest() -> None:
    lengths = [imposed_length(seed, 1000.0, 1 << 30) for seed in range(4000)]
    # The standard error of the mean is 1000·√(e^0.64 − 1)/√4000 = 15.
    assert np.mean(lengths) == pytest.approx(1000, abs=60)
    assert lengths[:5] == [imposed_length(seed, 1000.0, 1 << 30) for seed in range(5)]
    assert max(imposed_length(seed, 1000.0, 2000) for seed in range(200)) == 2000
    assert min(imposed_length(seed, 1.0, 2000) for seed in range(200)) == 1


@pytest.mark.parametrize(("imposed", "max_tokens", "reason"), [(3, 8, "stop"), (9, 3, "length"), (None, 3, "length")])
def test_a_response_stops_at_its_length_whatever_is_sampled(imposed: int | None, max_tokens: int, reason: str) -> None:
    request = GenerationRequest("r", np.array([7], np.int32), SamplingParams(1.0, max_tokens), seed=0)
    response = Response(request, frozenset(), imposed)
    version = PolicyVersion(0, 1)
    for ids in ([2], [2, 5]):
        assert response.num_left == min(max_tokens, imposed or max_tokens) - len(response.ids)
        leg = Leg("1.", version, 1)
        leg.take(Chunk(ids, MetaInfo(Finish("length"), len(ids), [(-1.0, token, None) for token in ids])))
        response.absorb(leg, {1: version})
    assert response.ended(leg) == reason

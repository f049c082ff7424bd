"""Every kind of virtual fault comes once before any comes twice, whatever the number of faults a run."""

from __future__ import annotations

from collections import Counter

import pytest

from ring_async.testing.chaos.plan import kinds, kinds_for


@pytest.mark.parametrize("number", [7, 20])
def test_consecutive_seeds_cover_all_kinds_evenly(number: int):
    every = kinds()
    assert len(set(every)) == len(every) > 60
    num_seeds = 3 * len(every) // number
    drawn = Counter(kind for seed in range(num_seeds) for kind in kinds_for(seed, number))
    assert set(drawn) == set(every)
    assert {drawn[kind] for kind in every} <= {2, 3}, "three turns, of which the last may be unfinished"


def test_a_seed_is_a_plan():
    assert list(kinds_for(5, 20)) == list(kinds_for(5, 20)) != list(kinds_for(6, 20))

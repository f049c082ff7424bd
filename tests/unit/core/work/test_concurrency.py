"""The limit of concurrency: up by proof, down by retraction, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.work.concurrency import AdaptiveConcurrency, CacheLoad


def make_load(running: int, *, waiting: int = 0, used: float = 0.5, retractions: int = 0) -> CacheLoad:
    return CacheLoad(running, waiting, used, retractions)


def test_it_begins_at_the_highest_and_stays_there_while_the_cache_holds_all() -> None:
    concurrency = AdaptiveConcurrency(lowest=8, highest=200)
    assert [concurrency.observe(make_load(200)) for _ in range(3)] == [200, 200, 200]


def test_a_retraction_shrinks_it_below_what_ran_and_then_it_waits() -> None:
    concurrency = AdaptiveConcurrency(lowest=8, highest=200, settle=2)
    assert concurrency.observe(make_load(160, used=0.99, retractions=3)) == 136
    assert concurrency.observe(make_load(150, used=0.99, retractions=9)) == 136
    assert concurrency.observe(make_load(140, used=0.95, retractions=9)) == 136
    assert concurrency.observe(make_load(136, used=0.95, retractions=10)) == 115


def test_it_grows_only_when_it_is_reached_and_there_is_room() -> None:
    concurrency = AdaptiveConcurrency(lowest=8, highest=200, limit=100)
    assert concurrency.observe(make_load(60)) == 100
    assert concurrency.observe(make_load(100, used=0.9)) == 100
    assert concurrency.observe(make_load(100, waiting=5)) == 100
    assert concurrency.observe(make_load(100)) == 110


def test_an_engine_that_started_anew_counts_from_nothing() -> None:
    concurrency = AdaptiveConcurrency(lowest=8, highest=100, settle=0)
    concurrency.observe(make_load(100, retractions=7))
    assert concurrency.limit == 85
    concurrency.observe(make_load(85, used=0.95, retractions=0))
    assert concurrency.limit == 85
    concurrency.observe(make_load(85, used=0.95, retractions=1))
    assert concurrency.limit == 72


def test_bounds_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        AdaptiveConcurrency(lowest=9, highest=8)


@given(
    st.integers(1, 50),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 800), st.integers(0, 100), st.floats(0, 1), st.integers(0, 50)), max_size=40),
)
def test_it_stays_within_its_bounds(lowest: int, room: int, loads: list[tuple[int, int, float, int]]) -> None:
    concurrency = AdaptiveConcurrency(lowest=lowest, highest=lowest + room)
    for running, waiting, used, retractions in loads:
        assert lowest <= concurrency.observe(CacheLoad(running, waiting, used, retractions)) <= lowest + room

"""A set of numbers kept as runs."""

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.work.index_runs import IndexRuns


@given(st.lists(st.integers(0, 60), max_size=60))
def test_runs_hold_what_a_set_holds_and_are_as_few_as_can_be(indices):
    runs = IndexRuns()
    for index in indices:
        runs.add(index)
    assert [index for index in range(-1, 62) if index in runs] == sorted(set(indices))
    ends = [end for _, end in runs.pairs]
    starts = [start for start, _ in runs.pairs]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
    assert IndexRuns(runs.pairs).pairs == runs.pairs


def test_neighbours_in_any_order_are_one_pair():
    runs = IndexRuns()
    for index in (5, 3, 4, 0, 2, 1):
        runs.add(index)
    assert runs.pairs == [(0, 6)]

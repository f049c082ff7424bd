"""Staleness: the three measures, and lineages after restarts of the learner."""

import pytest

from ring_async.core.staleness import Lineage, staleness
from ring_async.testing.builders import make_segments
from ring_async.types import PolicyVersion


@pytest.mark.parametrize(("measure", "expected"), [("oldest", 7), ("newest", 3), ("mean", 6)])
def test_measures(measure, expected):
    segments = make_segments(4, [(3, 3), (1, 7)])
    assert staleness(PolicyVersion(0, 10), segments, Lineage(), measure) == expected  # mean: (3·7 + 1·3) / 4 = 6


def test_mean_rounds_up():
    assert staleness(PolicyVersion(0, 2), make_segments(3, [(2, 1), (1, 2)]), Lineage(), "mean") == 1


def test_never_negative():
    assert staleness(PolicyVersion(0, 2), make_segments(3, 5), Lineage()) == 0


def test_tokens_of_a_lost_lineage_count_from_the_fork():
    lineage = Lineage().forked(1, 5)
    assert lineage.number(PolicyVersion(0, 3)) == 3
    assert lineage.number(PolicyVersion(0, 9)) == 5
    assert lineage.number(PolicyVersion(1, 9)) == 9
    assert staleness(PolicyVersion(1, 8), make_segments(2, PolicyVersion(0, 9)), lineage) == 3


def test_the_earliest_fork_since_a_version_counts():
    lineage = Lineage().forked(1, 8).forked(3, 4)
    assert lineage.incarnation == 3
    assert lineage.number(PolicyVersion(0, 9)) == 4
    assert lineage.number(PolicyVersion(2, 9)) == 4
    assert lineage.number(PolicyVersion(3, 9)) == 9


def test_a_lineage_never_goes_back():
    with pytest.raises(ValueError, match="not newer"):
        Lineage().forked(2, 4).forked(2, 5)

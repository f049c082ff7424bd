"""When a group of ranks must end, decided from the states of its processes."""

import pytest

from ring_async.actors.learner_ranks.watcher import ALIVE, GONE, STOPPED, STOPPED_S, Verdicts


def test_a_rank_that_is_gone_ends_the_group_at_once():
    assert Verdicts().judge({0: ALIVE, 1: ALIVE}, 0.0) == ""
    assert Verdicts().judge({0: ALIVE, 1: GONE}, 0.0) == "rank 1 is gone"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_ends_the_group_after_a_while(rank: int):
    verdicts = Verdicts()
    states = {0: ALIVE, 1: ALIVE} | {rank: STOPPED}
    assert verdicts.judge(states, 10.0) == ""
    assert verdicts.judge(states, 10.0 + STOPPED_S) == ""
    assert verdicts.judge(states, 10.5 + STOPPED_S) == f"rank {rank} has been stopped for {STOPPED_S + 0.5:.1f} s"


def test_a_moment_s_stop_is_passed_over():
    verdicts = Verdicts()
    for now_s in (0.0, 4.0, 8.0):
        assert verdicts.judge({0: ALIVE, 1: STOPPED}, now_s) == ""
        assert verdicts.judge({0: ALIVE, 1: ALIVE}, now_s + 2.0) == ""

from __future__ import annotations

import numpy as np
import pytest

from ring_async.batches import TokenInterval
from ring_async.errors import ConfigError
from ring_async.testing.builders import (
    make_config,
    make_generation,
    make_group,
    make_metrics_row,
    make_plan,
    make_reservation,
    make_segments,
    version,
)
from ring_async.types import PolicyVersion, Segment


def test_equal_arguments_build_equal_groups():
    first, again, other = make_group("a"), make_group("a"), make_group("b")
    assert first.header == again.header
    np.testing.assert_array_equal(first.response_ids, again.response_ids)
    assert not np.array_equal(first.response_ids, other.response_ids)


def test_lengths_rewards_and_reasons_for_each():
    group = make_group(rewards=[1, 0, 0.5], lengths=[2, 5, 1], finish_reasons=["stop", "length", "stop"])
    assert [trajectory.header.num_tokens for trajectory in group] == [2, 5, 1]
    assert group.header.rewards == (1.0, 0.0, 0.5)
    assert [trajectory.finish_reason for trajectory in group.header.trajectories] == ["stop", "length", "stop"]
    assert [trajectory.header.trajectory_id for trajectory in group] == ["g0/0", "g0/1", "g0/2"]


def test_an_unscored_group_has_no_verifier():
    assert make_group(rewards=[None, None]).header.verifier is None
    assert make_group().header.verifier is not None


@pytest.mark.parametrize(
    ("versions", "oldest"),
    [
        (3, [3, 3]),
        (PolicyVersion(0, 4), [4, 4]),
        ([(1, 2), (3, 5)], [2, 2]),
        ([6, 1], [6, 1]),
        ([[(2, 0), (2, 9)], 7], [0, 7]),
    ],
)
def test_versions_for_all_in_runs_or_for_each(versions, oldest):
    group = make_group(versions=versions)
    assert [trajectory.oldest_version.number for trajectory in group.header.trajectories] == oldest


def test_runs_must_cover_the_response():
    assert make_segments(5, [(2, 0), (3, 1)]) == (Segment(0, 2, version(0)), Segment(2, 5, version(1)))
    with pytest.raises(ValueError, match="hold 4 tokens, the response has 5"):
        make_segments(5, [(2, 0), (2, 1)])


def test_a_plan_covers_its_groups_exactly():
    plan = make_plan([make_group(lengths=[3, 5], versions=1)], policy_version=4)
    assert plan.token_budget == 8
    assert [sequence.interval for sequence in plan.sequences] == [
        TokenInterval("g0/0", 0, 3),
        TokenInterval("g0/1", 0, 5),
    ]
    assert [sequence.advantage for sequence in plan.sequences] == [0.5, -0.5]
    assert {sequence.staleness for sequence in plan.sequences} == {3}


def test_configuration_overrides_reach_into_sections():
    config = make_config(rollout__num=3, seed=7)
    assert (config.rollout.num, config.rollout.group_size, config.seed) == (3, 2, 7)
    with pytest.raises(ConfigError, match=r"budget\.token_budget: 8 is smaller than rollout\.max_tokens 16"):
        make_config(budget__token_budget=8)


def test_the_rest_has_defaults():
    assert make_reservation("g9").prompt.prompt_id == "sums/g9"
    assert make_generation(6, versions=[(2, 0), (4, 1)]).segments[1] == Segment(2, 6, version(1))
    assert make_metrics_row(3, evicted=2)["evicted"] == 2
    assert make_metrics_row(2)["reward_mean"] > make_metrics_row(1)["reward_mean"]

"""Advantages, by hand-computed values."""

import numpy as np
import pytest

from ring_async.core.advantages import AdvantageRules, RewardSpread, group_advantages
from ring_async.testing.builders import make_group

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0]  # mean 0.4, std (ddof 0) sqrt(0.24)


def advantages(rewards=REWARDS, lengths=4, finish_reasons="stop", max_tokens=64, spread=None, **rules):
    group = make_group(rewards=rewards, lengths=lengths, finish_reasons=finish_reasons, max_tokens=max_tokens)
    return group_advantages(group.header, AdvantageRules(**rules), spread)


@pytest.mark.parametrize(
    ("estimator", "of_one", "of_zero"),
    [
        ("grpo", 0.6 / (0.24**0.5 + 1e-6), -0.4 / (0.24**0.5 + 1e-6)),
        ("dr_grpo", 0.6, -0.4),
        ("rloo", 0.75, -0.5),  # 1 − mean of the others (1/4); 0 − 2/4
        ("batch_std", 0.6 / (0.24**0.5 + 1e-6), -0.4 / (0.24**0.5 + 1e-6)),
    ],
)
def test_estimators(estimator, of_one, of_zero):
    result = advantages(estimator=estimator)
    expected = [of_one, of_zero, of_zero, of_one, of_zero]
    np.testing.assert_allclose(result.advantages, expected, rtol=1e-6)
    assert result.has_signal


def test_batch_std_divides_by_the_spread_over_groups():
    spread = RewardSpread()
    advantages(rewards=[1.0, 0.0], estimator="batch_std", spread=spread)  # mean square 0.25
    result = advantages(rewards=[3.0, 0.0], estimator="batch_std", spread=spread)  # mean square 2.25
    np.testing.assert_allclose(result.advantages, [1.5 / 1.25**0.5, -1.5 / 1.25**0.5], rtol=1e-5)


def test_spread_forgets_old_groups():
    spread = RewardSpread(max_groups=2)
    for reward in (100.0, 1.0, 1.0):
        last = spread.include(reward**2)
    assert last == pytest.approx(1.0)


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.5, 0.5 + 1e-7]])
def test_equal_rewards_have_no_signal(rewards):
    result = advantages(rewards=rewards)
    assert not result.has_signal
    assert not any(result.advantages)


def test_a_truncated_response_earns_nothing():
    result = advantages(
        rewards=[1.0, 1.0, -1.0], finish_reasons=["stop", "length", "length"], estimator="dr_grpo", truncated="zero"
    )
    np.testing.assert_allclose(result.advantages, [1.0, 0.0, -1.0])  # rewards 1, 0, -1
    assert not any(result.is_masked)


def test_masked_responses_may_count_in_the_mean():
    shape = {"rewards": [1.0, 0.0, 0.5], "finish_reasons": ["stop", "stop", "length"], "estimator": "dr_grpo"}
    within = advantages(**shape, truncated="mask", masked_in_mean=True)
    np.testing.assert_allclose(within.advantages, [0.5, -0.5, 0.0])
    assert within.is_masked == (False, False, True)
    shape["rewards"] = [1.0, 0.0, 2.0]
    without = advantages(**shape, truncated="mask", masked_in_mean=False)
    np.testing.assert_allclose(without.advantages, [0.5, -0.5, 0.0])


def test_all_masked_have_no_signal():
    assert not advantages(rewards=[1.0, 0.0], finish_reasons="length", truncated="mask").has_signal


def test_soft_penalty_is_linear_over_the_last_tokens():
    result = advantages(
        rewards=[1.0, 1.0, 1.0, 1.0],
        lengths=[32, 48, 56, 64],
        max_tokens=64,
        soft_cache_tokens=32,
        estimator="dr_grpo",
        truncated="soft",
    )
    penalties = np.array([0.0, -0.5, -0.75, -1.0])
    np.testing.assert_allclose(result.advantages, penalties - penalties.mean(), atol=1e-7)


@pytest.mark.parametrize("reward", [None, float("nan"), float("inf")])
def test_an_unusable_reward_is_refused(reward):
    with pytest.raises(ValueError, match="missing or not finite"):
        advantages(rewards=[1.0, reward])

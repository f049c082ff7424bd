import math

import numpy as np
import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, correct
from ring_async.algorithms.statistics import BatchStatistics, effective_sample_size, plan_statistics, rl_columns
from ring_async.config.learning import CorrectionSection
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences


def summary_of(behavior_ratios, *, advantages, staleness, bad=(), rule="icepop"):
    size = len(behavior_ratios)
    policy = torch.full((size,), -1.0, dtype=torch.float64)
    behavior = policy - torch.tensor(behavior_ratios, dtype=torch.float64).log()
    behavior[list(bad)] = math.nan
    tokens = TokenBatch(
        policy_logprobs=policy,
        proximal_logprobs=policy,
        behavior_logprobs=behavior,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        is_loss=torch.ones(size, dtype=torch.bool),
        sequence_ids=torch.zeros(size, dtype=torch.int64),
        token_staleness=torch.tensor(staleness),
    )
    statistics = BatchStatistics()
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule=rule)))
    half = size // 2
    for chosen in (slice(0, half), slice(half, size)):
        part = TokenBatch(**{n: getattr(tokens, n)[chosen] for n in TokenBatch.__slots__[:7]})
        statistics.add(rl_columns(part, correct(part, Correction()), torch.full((size,), 0.5)[chosen], None))
    assert corrected.is_used.shape == (size,)
    return statistics.summary()


def test_what_is_logged_by_hand():
    logged = summary_of([1.0, 1.0, 6.0, 0.4], advantages=[1.0, -1.0, 1.0, -1.0], staleness=[0, 0, 1, 2])
    assert logged["loss_tokens"] == 4
    assert logged["nonfinite_tokens"] == 0
    assert logged["behavior_ratio_masked"] == 0.5
    assert logged["behavior_ratio_masked_by_staleness"] == {"0": 0.0, "1": 1.0, "2": 1.0}
    assert logged["behavior_ratio_masked_by_sign"] == {"positive": 0.5, "negative": 0.5}
    assert logged["behavior_ratio_quantiles"]["1"] == pytest.approx({"p01": 6.0, "p50": 6.0, "p99": 6.0})
    assert logged["loss_tokens_by_staleness"] == {"0": 2, "1": 1, "2": 1}
    assert logged["effective_sample_size"] == pytest.approx(8.4**2 / (4 * (1 + 1 + 36 + 0.16)))
    assert logged["mismatch_ratio"] == pytest.approx(1.0)
    assert logged["mismatch_tokens"] == 2
    assert logged["entropy"] == pytest.approx(0.5)
    assert logged["kl"] is None
    assert logged["policy_ratio_clipped"] == 0.0


def test_non_finite_tokens_are_counted_and_left_out():
    logged = summary_of([1.0, 1.0, 6.0, 1.0], advantages=[1.0] * 4, staleness=[1] * 4, bad=[2])
    assert (logged["loss_tokens"], logged["nonfinite_tokens"]) == (4, 1)
    assert logged["effective_sample_size"] == pytest.approx(1.0)
    assert logged["mismatch_ratio"] is None


def test_effective_sample_size_is_one_for_equal_weights_and_one_nth_when_one_rules():
    assert effective_sample_size(np.full(10, -3.0)) == pytest.approx(1.0)
    assert effective_sample_size(np.array([20.0, -20.0, -20.0, -20.0])) == pytest.approx(0.25)
    assert effective_sample_size(np.array([])) == 0.0


def test_a_low_effective_sample_size_raises_the_alarm():
    logged = summary_of([4.9, 0.51, 0.51, 0.51, 0.51, 0.51], advantages=[1.0] * 6, staleness=[3] * 6)
    assert logged["effective_sample_size"] == pytest.approx(7.45**2 / (6 * (4.9**2 + 5 * 0.51**2)))
    assert not logged["effective_sample_size_low"]
    assert summary_of([200.0, *[0.1] * 9], advantages=[1.0] * 10, staleness=[3] * 10)["effective_sample_size_low"]


def test_a_plan_tells_rewards_staleness_and_padding():
    batch = pack_sequences(
        [
            SequenceSpec([1, 2], [3, 4, 5], reward=1.0, source="sums", staleness=[0, 1, 2]),
            SequenceSpec([1, 2], [3], reward=0.0, source="sums"),
            SequenceSpec([1], [2], reward=0.5, source="letters", staleness=1),
        ],
        token_capacity=10,
    )
    assert plan_statistics(batch.plan) == {
        "reward_mean": 0.5,
        "reward_by_source": {"letters": 0.5, "sums": 0.5},
        "staleness_mean": 1.0,
        "staleness_max": 2,
        "padding_fraction": 0.0,
        "num_sequences": 3,
    }

"""`proximal: loglinear` with several minibatches a batch: the mismatch of engine and learner stays in sight."""

from __future__ import annotations

import math

import pytest
import torch

from ring_async.algorithms.corrections import Correction
from ring_async.config.learning import CorrectionSection, LossSection
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.batch_tensors import BatchTensors
from ring_async.training.objective import RlObjective, Score

NUM_TOKENS = 160
NUM_MINIBATCHES = 4


def make_objective(**correction) -> RlObjective:
    section = CorrectionSection(proximal="loglinear", **correction)
    return RlObjective(Correction.from_section(section), LossSection(), NUM_MINIBATCHES)


def train(objective: RlObjective, *, log_ratio: torch.Tensor, staleness: int = 0, learned: float = 0.0):
    """One batch in `NUM_MINIBATCHES` steps; returns its statistics.

    Args:
        log_ratio: log(π/μ) `[NUM_TOKENS]` under the weights before the batch.
        learned: what each optimizer step adds to every token's log π_θ.
    """
    ids = [1] * NUM_TOKENS
    spec = SequenceSpec([1], ids, advantage=1.0, staleness=[staleness] * NUM_TOKENS)
    tensors = BatchTensors(pack_sequences([spec], token_capacity=NUM_TOKENS + 1), torch.device("cpu"))
    before = torch.full((NUM_TOKENS,), -6.0)
    tensors.behavior_logprobs = torch.cat([torch.zeros(1), before - log_ratio])
    assert not objective.needs_first_pass
    statistics = objective.statistics()
    for minibatch, chosen in enumerate(torch.arange(NUM_TOKENS).chunk(NUM_MINIBATCHES)):
        score = Score(before[chosen] + learned * minibatch, torch.zeros(len(chosen)))
        sequence_ids = torch.zeros(len(chosen), dtype=torch.int64)
        progress = minibatch / NUM_MINIBATCHES
        loss = objective.loss(score, tensors, 1 + chosen, sequence_ids, divisor=1.0, progress=progress)
        statistics.add(loss.columns)
    objective.mismatch.update(*statistics.mismatch_readings())
    return statistics.summary()


def constant(value: float) -> torch.Tensor:
    return torch.full((NUM_TOKENS,), value)


def scattered(mean: float, deviation: float) -> torch.Tensor:
    return torch.tensor([mean - deviation, mean + deviation]).repeat(NUM_TOKENS // 2)


def test_the_first_minibatch_measures_the_mismatch_and_the_others_do_not_dilute_it():
    logged = train(make_objective(), log_ratio=constant(1.0), learned=0.3)
    assert logged["mismatch_ratio"] == pytest.approx(math.e, rel=1e-6)
    assert logged["mismatch_tokens"] == NUM_TOKENS // NUM_MINIBATCHES


def test_fresh_tokens_outside_of_the_band_are_masked_in_every_minibatch():
    # k = e^−3 lies below icepop's 0.5: from the first batch on, and in later ones, where there is an estimate.
    objective = make_objective(rule="icepop")
    for _ in range(3):
        assert train(objective, log_ratio=constant(-3.0))["behavior_ratio_masked"] == 1.0


def test_a_mismatch_that_differs_from_token_to_token_is_masked_where_it_is():
    objective = make_objective(rule="icepop")
    half_outside = scattered(-0.5, 1.0)  # k = e^−1.5 and e^0.5
    for _ in range(3):
        logged = train(objective, log_ratio=half_outside)
        assert logged["behavior_ratio_masked"] == pytest.approx(0.5)
        assert logged["mismatch_ratio"] == pytest.approx((math.exp(-1.5) + math.exp(0.5)) / 2, rel=1e-6)


def test_without_a_mismatch_what_the_batch_teaches_is_clipped_as_before():
    objective = make_objective(rule="decoupled")
    train(objective, log_ratio=constant(0.0), learned=0.1)
    logged = train(objective, log_ratio=constant(0.0), learned=0.1)
    # log u = 0, 0.1, 0.2, 0.3 in the four minibatches; the clip holds above log 1.2 = 0.18. All of it is u, none is w.
    assert logged["policy_ratio_clipped"] == 0.5
    assert logged["behavior_ratio_mean"] == pytest.approx(1.0, abs=1e-6)


def test_a_constant_mismatch_and_what_the_batch_teaches_are_told_apart():
    objective = make_objective(rule="decoupled")
    for _ in range(2):
        logged = train(objective, log_ratio=constant(0.5), learned=0.1)
    assert logged["policy_ratio_clipped"] == 0.5
    assert logged["behavior_ratio_mean"] == pytest.approx(math.exp(0.5), rel=1e-6)


def test_stale_tokens_are_interpolated_from_the_learner_s_own_number():
    objective = make_objective(rule="decoupled")
    train(objective, log_ratio=constant(0.5))
    logged = train(objective, log_ratio=constant(0.7), staleness=1)
    # Mismatch 0.5 in all; 0.2 was learned over 1, 1.25, 1.5, 1.75 versions, of which one lies before π_prox. An age
    # without moments has all of log r for its estimate, so both are told apart from the second batch of that age on.
    assert logged["behavior_ratio_mean"] == pytest.approx(math.exp(0.7), rel=1e-6)
    logged = train(objective, log_ratio=constant(0.7), staleness=1)
    expected = [math.exp(0.5 + 0.2 / age) for age in (1.0, 1.25, 1.5, 1.75)]
    assert logged["behavior_ratio_mean"] == pytest.approx(sum(expected) / 4, rel=1e-5)

"""Every rule, penalty and estimator against an independent reference to 1e-12, on random batches and committed ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, correct
from ring_async.algorithms.kl import kl_estimate
from ring_async.algorithms.losses import batch_loss
from ring_async.config.learning import CorrectionSection, LossSection
from ring_async.core.advantages import AdvantageRules, RewardSpread, group_advantages
from ring_async.testing.builders import make_group
from tests.support import algorithm_reference as reference

GOLDEN = json.loads((Path(__file__).parent / "golden_values.json").read_text())
SEEDS = range(40)
F64 = torch.float64


def close(values):
    return pytest.approx([float(value) for value in values], rel=1e-12, abs=1e-300)


def as_batch(tokens: reference.Tokens) -> TokenBatch:
    def column(values):
        return torch.tensor(values, dtype=F64)

    return TokenBatch(
        policy_logprobs=column(tokens.policy).requires_grad_(),
        proximal_logprobs=column(tokens.proximal),
        behavior_logprobs=column(tokens.behavior),
        advantages=column(tokens.advantages),
        is_loss=torch.tensor(tokens.is_loss),
        sequence_ids=torch.tensor(tokens.sequence_ids),
        token_staleness=torch.zeros(len(tokens.policy), dtype=torch.int64),
    )


def surrogates(rule: str, tokens: reference.Tokens) -> tuple[list[float], list[float]]:
    batch = as_batch(tokens)
    surrogate = correct(batch, Correction.from_section(CorrectionSection(rule=rule))).surrogate
    surrogate.sum().backward()
    return surrogate.tolist(), batch.policy_logprobs.grad.tolist()


def penalties(estimator: str, tokens: reference.Tokens) -> tuple[list[float], list[float]]:
    batch = as_batch(tokens)
    found = kl_estimate(
        batch.policy_logprobs, torch.tensor(tokens.reference, dtype=F64), batch.behavior_logprobs, estimator
    )
    found.sum().backward()
    return found.tolist(), batch.policy_logprobs.grad.tolist()


def largest_error(found: list[float], expected: list[reference.Real], tokens: reference.Tokens) -> float:
    """The largest error of a penalty relative to its largest term, r·e^l or r: the terms nearly cancel."""
    columns = zip(found, expected, tokens.reference, tokens.policy, tokens.behavior, strict=True)
    return max(
        abs(one - float(exact)) / (max(1.0, math.exp(log_ref - log_pi)) * max(1.0, min(5.0, math.exp(log_pi - log_mu))))
        for one, exact, log_ref, log_pi, log_mu in columns
    )


@pytest.mark.parametrize("rule", reference.RULES)
def test_rules_equal_the_reference_on_random_batches(rule):
    for seed in SEEDS:
        tokens = reference.random_tokens(seed)
        values, derivatives = surrogates(rule, tokens)
        expected_values, expected_derivatives = reference.surrogates(rule, tokens)
        assert values == close(expected_values), seed
        assert derivatives == close(expected_derivatives), seed


@pytest.mark.parametrize("estimator", reference.KL_ESTIMATORS)
def test_penalties_equal_the_reference_on_random_batches(estimator):
    for seed in SEEDS:
        tokens = reference.random_tokens(seed)
        values, derivatives = penalties(estimator, tokens)
        expected_values, expected_derivatives = reference.kl_penalties(estimator, tokens)
        assert largest_error(values, expected_values, tokens) < 1e-13, seed
        assert largest_error(derivatives, expected_derivatives, tokens) < 1e-13, seed


@pytest.mark.parametrize("estimator", reference.ESTIMATORS)
def test_advantages_equal_the_reference_on_random_groups(estimator):
    for seed in SEEDS:
        draw = reference.random.Random(seed)
        scale = draw.choice((1e-3, 1.0, 1e5))
        rewards = [scale * draw.choice((0.0, 0.25, 1.0, draw.random())) for _ in range(draw.randrange(2, 17))]
        earlier = [scale**2 * draw.random() for _ in range(draw.randrange(5))]
        if max(rewards) - min(rewards) <= 1e-6:
            continue
        spread = RewardSpread()
        for variance in earlier:
            spread.include(variance)
        found = group_advantages(make_group(rewards=rewards).header, AdvantageRules(estimator=estimator), spread)
        expected = reference.advantages(estimator, rewards, earlier)
        largest = max(abs(float(one)) for one in expected)
        assert found.advantages == pytest.approx([float(one) for one in expected], rel=1e-12, abs=1e-12 * largest), seed


@pytest.mark.parametrize("rule", reference.RULES)
def test_the_loss_is_the_sum_over_a_constant(rule):
    """−(1/Φ) Σ (surrogate − β·KL + α·entropy) over the loss tokens, with its gradient."""
    tokens, divisor = reference.random_tokens(3), 11.0
    batch = as_batch(tokens)
    entropy = torch.linspace(0.1, 2.0, len(tokens.policy), dtype=F64, requires_grad=True)
    settings = LossSection(kl_coefficient=0.02, kl_estimator="k3_weighted", entropy_coefficient=0.005)
    corrected = correct(batch, Correction.from_section(CorrectionSection(rule=rule)))
    reference_logprobs = torch.tensor(tokens.reference, dtype=F64)
    total = batch_loss(batch, corrected, entropy, reference_logprobs, settings=settings, divisor=divisor).total
    total.backward()
    counts = [float(counted) for counted in tokens.is_loss]
    values, derivatives = reference.surrogates(rule, tokens)
    kls, kl_derivatives = reference.kl_penalties("k3_weighted", tokens)
    parts = [
        value + counted * (-0.02 * kl + 0.005 * bonus)
        for value, kl, bonus, counted in zip(values, kls, entropy.tolist(), counts, strict=True)
    ]
    assert total.item() == pytest.approx(-float(sum(parts)) / divisor, rel=1e-12)
    slopes = [
        -(derivative - 0.02 * counted * kl) / divisor
        for derivative, kl, counted in zip(derivatives, kl_derivatives, counts, strict=True)
    ]
    assert batch.policy_logprobs.grad.tolist() == pytest.approx([float(one) for one in slopes], rel=1e-12, abs=1e-15)
    assert entropy.grad.tolist() == pytest.approx([-0.005 * counted / divisor for counted in counts], rel=1e-12)


@pytest.mark.parametrize("rule", reference.RULES)
def test_golden_surrogates(rule):
    values, derivatives = surrogates(rule, reference.Tokens(**GOLDEN["tokens"]))
    assert values == close(GOLDEN["surrogates"][rule]["values"])
    assert derivatives == close(GOLDEN["surrogates"][rule]["derivatives"])


@pytest.mark.parametrize("estimator", reference.KL_ESTIMATORS)
def test_golden_penalties(estimator):
    values, derivatives = penalties(estimator, reference.Tokens(**GOLDEN["tokens"]))
    assert values == pytest.approx(GOLDEN["penalties"][estimator]["values"], rel=1e-12, abs=1e-14)
    assert derivatives == pytest.approx(GOLDEN["penalties"][estimator]["derivatives"], rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("estimator", reference.ESTIMATORS)
def test_golden_advantages(estimator):
    spread = RewardSpread()
    for variance in GOLDEN["earlier_variances"]:
        spread.include(variance)
    header = make_group(rewards=GOLDEN["rewards"]).header
    found = group_advantages(header, AdvantageRules(estimator=estimator), spread)
    assert found.advantages == pytest.approx(GOLDEN["advantages"][estimator], rel=1e-12)


def test_the_committed_values_are_those_of_the_formulas():
    """Neither the reference nor the committed file changes without the other."""
    assert json.loads(json.dumps(reference.golden_values())) == GOLDEN

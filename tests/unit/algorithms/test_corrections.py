"""Every rule against values worked out by hand."""

import math

import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, binary_kl, correct, m2po_mask
from ring_async.config.learning import CorrectionSection

F64 = torch.float64


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=F64).log()


def make_tokens(policy, proximal, behavior, advantages, **fields) -> TokenBatch:
    size = len(policy)
    defaults = {
        "is_loss": torch.ones(size, dtype=torch.bool),
        "sequence_ids": torch.zeros(size, dtype=torch.int64),
        "token_staleness": torch.zeros(size, dtype=torch.int64),
    }
    return TokenBatch(
        policy_logprobs=logs(*policy).requires_grad_(),
        proximal_logprobs=logs(*proximal),
        behavior_logprobs=logs(*behavior),
        advantages=torch.tensor(advantages, dtype=F64),
        **(defaults | fields),
    )


def surrogates(tokens: TokenBatch, rule: str, **settings) -> list[float]:
    correction = Correction.from_section(CorrectionSection(rule=rule, **settings))
    return correct(tokens, correction).surrogate.tolist()


# u = 0.6/0.4 = 1.5, 0.2/0.4 = 0.5, 0.3/0.3 = 1; w = 0.4/0.05 = 8, 0.4/0.8 = 0.5, 0.3/0.1 = 3
POLICY, PROXIMAL, BEHAVIOR = [0.6, 0.2, 0.3], [0.4, 0.4, 0.3], [0.05, 0.8, 0.1]
ADVANTAGES = [2.0, -1.0, -1.0]


def tokens_of_three(**fields) -> TokenBatch:
    return make_tokens(POLICY, PROXIMAL, BEHAVIOR, ADVANTAGES, **fields)


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        # min(uA, clip(u)A) is 1.2·2, −0.8 (u = 0.5 is below 0.8, and 0.8·−1 < 0.5·−1), −1.
        ("decoupled", {}, [5 * 2.4, 0.5 * -0.8, 3 * -1.0]),
        ("decoupled", {"cap_action": "mask"}, [0.0, 0.5 * -0.8, 3 * -1.0]),
        ("decoupled", {"cap": 100.0, "clip_high": 1.0}, [8 * 3.0, 0.5 * -0.8, 3 * -1.0]),
        ("tis", {}, [2 * 2.4, 0.5 * -0.8, 2 * -1.0]),
        ("icepop", {"lower": 0.4}, [0.0, 0.5 * -0.8, 3 * -1.0]),
        ("icepop", {"lower": 0.6, "upper": 10.0}, [8 * 2.4, 0.0, 3 * -1.0]),
        # r = 12, 0.25, 3.
        ("ppo", {}, [1.2 * 2.0, -0.8, -3.0]),
        ("cispo", {}, [5 * 2 * math.log(0.6), -0.25 * math.log(0.2), -3 * math.log(0.3)]),
        ("none", {}, [2 * math.log(0.6), -math.log(0.2), -math.log(0.3)]),
        # Watched: the first (A > 0, r > 1) and the second (A < 0, r < 1); the third pulls back towards μ.
        ("m2po", {}, [0.0, 0.0, -3.0]),
        ("m2po", {"tau": 2.0}, [0.0, -0.25, -3.0]),
        ("m2po", {"tau": 10.0}, [24.0, -0.25, -3.0]),
    ],
)
def test_surrogate_by_hand(rule, settings, expected):
    assert surrogates(tokens_of_three(), rule, **settings) == pytest.approx(expected)


def test_kpop_masks_where_either_binary_kl_is_above_its_bound():
    tokens = make_tokens([0.5, 0.5], [0.5, 0.5], [0.4, 0.1], [1.0, 1.0])
    near = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    far = 0.1 * math.log(0.1 / 0.5) + 0.9 * math.log(0.9 / 0.5)
    assert near < 0.1 < far
    assert surrogates(tokens, "kpop") == pytest.approx([1.25, 0.0])
    assert surrogates(tokens, "kpop", phi=0.6) == pytest.approx([1.25, 5.0])
    # The reverse of the second is 0.5108: a bound between the two directions masks it still.
    assert far < 0.45 < 0.5108
    assert surrogates(tokens, "kpop", phi=0.45) == pytest.approx([1.25, 0.0])


def test_binary_kl_is_accurate_at_both_ends_and_zero_at_equality():
    probabilities = logs(1e-12, 0.3, 1 - 1e-9)
    assert binary_kl(probabilities, probabilities).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert float(binary_kl(logs(1e-6), logs(2e-6))) == pytest.approx(1e-6 * math.log(0.5) + 1e-6, rel=1e-3)
    assert bool(binary_kl(torch.zeros(1, dtype=F64), logs(0.5)).isfinite().all())


@pytest.mark.parametrize("policy", [-0.5, -45.0, -500.0])
def test_kpop_judges_log_probabilities_as_given_not_as_bounded_ratios_say(policy):
    """The policy may have moved by more than e^20 within the batch: π_prox and μ, which the rule compares, have not."""
    tokens = TokenBatch(
        policy_logprobs=torch.full((3,), policy, dtype=F64, requires_grad=True),
        proximal_logprobs=torch.tensor([-1.0, -1.0, -1.0], dtype=F64),
        behavior_logprobs=torch.tensor([-2.0, -1.1, -60.0], dtype=F64),
        advantages=torch.ones(3, dtype=F64),
        is_loss=torch.ones(3, dtype=torch.bool),
        sequence_ids=torch.zeros(3, dtype=torch.int64),
        token_staleness=torch.zeros(3, dtype=torch.int64),
    )
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule="kpop")))
    # p = e^−1: KL(p ‖ e^−2) = 0.17, KL(p ‖ e^−1.1) = 0.003, KL(p ‖ e^−60) = 21.4.
    assert corrected.is_masked.tolist() == [True, False, True]
    assert corrected.weight.tolist() == pytest.approx([0.0, math.exp(0.1), 0.0])


def test_gspo_clips_the_mean_ratio_of_the_full_response():
    # Two responses: log u means are log(1.5)/2 over two tokens, of which one has no loss, and log(0.5).
    tokens = make_tokens(
        [0.6, 0.4, 0.2],
        [0.4, 0.4, 0.4],
        [0.4, 0.4, 0.4],
        [1.0, 1.0, -2.0],
        is_loss=torch.tensor([True, False, True]),
        sequence_ids=torch.tensor([0, 0, 1]),
    )
    wide = surrogates(tokens, "gspo", clip_low=0.9, clip_high=0.9)
    assert wide == pytest.approx([math.sqrt(1.5), 0.0, -2 * 0.5])
    assert surrogates(tokens, "gspo") == pytest.approx([1.0004, 0.0, -2 * (1 - 3e-4)])


def test_gspo_gradient_equals_that_of_the_sequence_objective_when_all_tokens_carry_loss():
    tokens = make_tokens([0.6, 0.3, 0.2], [0.5, 0.4, 0.2], [0.5, 0.4, 0.2], [1.5, 1.5, 1.5])
    correction = Correction.from_section(CorrectionSection(rule="gspo", clip_low=0.5, clip_high=0.5))
    correct(tokens, correction).surrogate.sum().backward()
    log_policy = logs(0.6, 0.3, 0.2).requires_grad_()
    ratio = (log_policy - tokens.proximal_logprobs).mean().exp()
    (3 * ratio * 1.5).backward()
    assert tokens.policy_logprobs.grad.tolist() == pytest.approx(log_policy.grad.tolist())


@pytest.mark.parametrize("rule", ["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"])
def test_on_policy_every_rule_has_the_plain_policy_gradient(rule):
    tokens = make_tokens([0.6, 0.2, 0.3], [0.6, 0.2, 0.3], [0.6, 0.2, 0.3], ADVANTAGES)
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule=rule)))
    assert corrected.log_policy_ratio.tolist() == [0.0, 0.0, 0.0]
    assert corrected.log_behavior_ratio.tolist() == [0.0, 0.0, 0.0]
    assert not bool(corrected.is_masked.any() | corrected.is_clipped.any())
    corrected.surrogate.sum().backward()
    assert tokens.policy_logprobs.grad.tolist() == pytest.approx(ADVANTAGES)


@pytest.mark.parametrize("rule", ["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_masks_its_token_alone_and_is_counted(rule, bad):
    clean = tokens_of_three(sequence_ids=torch.tensor([0, 1, 2]))
    broken = tokens_of_three(sequence_ids=torch.tensor([0, 1, 2]))
    broken.behavior_logprobs[1] = bad
    correction = Correction.from_section(CorrectionSection(rule=rule, tau=100.0))
    reference, corrected = correct(clean, correction), correct(broken, correction)
    assert corrected.is_nonfinite.tolist() == [False, True, False]
    assert float(corrected.surrogate[1].detach()) == 0.0
    assert corrected.surrogate[[0, 2]].tolist() == pytest.approx(reference.surrogate[[0, 2]].tolist())
    corrected.surrogate.sum().backward()
    assert bool(broken.policy_logprobs.grad.isfinite().all())
    assert float(broken.policy_logprobs.grad[1]) == 0.0


@pytest.mark.parametrize("rule", ["decoupled", "icepop", "cispo", "ppo", "m2po"])
def test_ratios_beyond_e20_stay_finite(rule):
    tokens = TokenBatch(
        policy_logprobs=torch.tensor([0.0, -500.0]).requires_grad_(),
        proximal_logprobs=torch.tensor([0.0, -500.0]),
        behavior_logprobs=torch.tensor([-500.0, 0.0]),
        advantages=torch.tensor([1.0, 1.0]),
        is_loss=torch.ones(2, dtype=torch.bool),
        sequence_ids=torch.zeros(2, dtype=torch.int64),
        token_staleness=torch.zeros(2, dtype=torch.int64),
    )
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule=rule)))
    assert corrected.log_behavior_ratio.tolist() == [20.0, -20.0]
    corrected.surrogate.sum().backward()
    assert bool(tokens.policy_logprobs.grad.isfinite().all())


def test_with_one_minibatch_decoupled_and_tis_differ_by_their_cap_alone():
    tokens = make_tokens(PROXIMAL, PROXIMAL, BEHAVIOR, ADVANTAGES)
    assert surrogates(tokens, "decoupled", cap=2.0) == surrogates(tokens, "tis")
    assert surrogates(tokens, "decoupled") != surrogates(tokens, "tis")


def test_icepop_on_mismatch_holds_the_band_against_the_estimate():
    estimate = torch.tensor([0.0, 0.0, math.log(6.0)], dtype=F64)
    tokens = tokens_of_three(mismatch_log_ratio=estimate)
    assert surrogates(tokens, "icepop", icepop_on="mismatch") == pytest.approx([8 * 2.4, 0.5 * -0.8, 0.0])
    # Before there is an estimate the band is held against w.
    assert surrogates(tokens_of_three(), "icepop", icepop_on="mismatch", lower=0.4) == surrogates(
        tokens_of_three(), "icepop", lower=0.4
    )


def test_m2po_mask_looks_at_the_whole_batch_and_at_tokens_that_move_away_only():
    log_ratio = torch.tensor([0.5, 0.3, 0.1, 9.0, -9.0, 0.2])
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, 0.0])
    is_loss = torch.ones(6, dtype=torch.bool)
    # Watched: 0.25, 0.09, 0.01. Running means from the smallest: 0.01, 0.05, 0.1167.
    assert m2po_mask(log_ratio, advantages, is_loss, 0.04).tolist() == [False, False, True, True, True, True]
    assert m2po_mask(log_ratio, advantages, is_loss, 0.05 + 1e-6).tolist() == [False, True, True, True, True, True]
    assert m2po_mask(log_ratio, advantages, is_loss, 0.12).all()
    assert m2po_mask(log_ratio, -advantages.abs(), is_loss, 0.0).tolist() == [True, True, True, True, False, True]


def test_a_mask_over_the_batch_overrides_the_microbatch_own():
    tokens = tokens_of_three(batch_mask=torch.tensor([True, False, True]))
    assert surrogates(tokens, "m2po") == pytest.approx([24.0, 0.0, -3.0])


def test_defaults_are_the_rules_own():
    def settled(rule):
        return Correction.from_section(CorrectionSection(rule=rule))

    assert (settled("decoupled").cap, settled("tis").cap, settled("cispo").cap) == (5.0, 2.0, 5.0)
    assert (settled("icepop").lower, settled("icepop").upper) == (0.5, 5.0)
    assert (settled("kpop").phi, settled("m2po").tau) == (0.1, 0.04)
    assert (settled("gspo").clip_low, settled("gspo").clip_high) == (3e-4, 4e-4)
    assert (settled("ppo").clip_low, settled("ppo").clip_high) == (0.2, 0.2)
    assert Correction.from_section(CorrectionSection(rule="tis", cap=7.0)).cap == 7.0


def test_masked_and_clipped_are_reported_apart():
    corrected = correct(tokens_of_three(), Correction.from_section(CorrectionSection(rule="icepop", lower=0.4)))
    assert corrected.is_masked.tolist() == [True, False, False]
    assert corrected.is_clipped.tolist() == [False, True, False]
    assert corrected.weight.tolist() == pytest.approx([0.0, 0.5, 3.0])


def test_tokens_without_loss_have_no_surrogate():
    tokens = tokens_of_three(is_loss=torch.tensor([True, False, True]))
    assert surrogates(tokens, "none")[1] == 0.0

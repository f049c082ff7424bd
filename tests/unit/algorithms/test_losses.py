"""The sum over loss tokens: its divisor, its parts, its gradient."""

import math

import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, correct
from ring_async.algorithms.losses import batch_loss
from ring_async.config.learning import CorrectionSection, LossSection

F64 = torch.float64
RULES = ["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"]


def random_tokens(size: int = 12, *, seed: int = 0, requires_grad: bool = True) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(size, generator=generator, dtype=F64)

    policy = normal(0.5) - 2
    return TokenBatch(
        policy_logprobs=policy.clone().requires_grad_(requires_grad),
        proximal_logprobs=policy + normal(0.2),
        behavior_logprobs=policy + normal(0.4),
        advantages=normal(1.0),
        is_loss=torch.rand(size, generator=generator) > 0.2,
        sequence_ids=torch.arange(size) // 4,
        token_staleness=torch.arange(size) % 3,
    )


def part_of(tokens: TokenBatch, chosen: torch.Tensor) -> TokenBatch:
    fields = {name: getattr(tokens, name)[chosen] for name in ("policy_logprobs", "proximal_logprobs")}
    fields |= {name: getattr(tokens, name)[chosen] for name in ("behavior_logprobs", "advantages", "is_loss")}
    sequence_ids = tokens.sequence_ids[chosen]
    return TokenBatch(
        **fields,
        sequence_ids=sequence_ids - sequence_ids.min(),
        token_staleness=tokens.token_staleness[chosen],
        batch_mask=None if tokens.batch_mask is None else tokens.batch_mask[chosen],
    )


def loss_of(tokens, rule="icepop", *, divisor=10.0, entropy=None, reference=None, **settings):
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule=rule)))
    entropy = torch.zeros_like(tokens.advantages) if entropy is None else entropy
    return batch_loss(tokens, corrected, entropy, reference, settings=LossSection(**settings), divisor=divisor)


def test_loss_is_the_sum_over_a_constant_even_where_tokens_are_masked():
    tokens = TokenBatch(
        policy_logprobs=torch.tensor([-1.0, -1.0, -1.0], dtype=F64),
        proximal_logprobs=torch.tensor([-1.0, -1.0, -1.0], dtype=F64),
        behavior_logprobs=torch.tensor([-1.0, -9.0, -1.0], dtype=F64),
        advantages=torch.tensor([1.0, 1.0, -3.0], dtype=F64),
        is_loss=torch.tensor([True, True, False]),
        sequence_ids=torch.zeros(3, dtype=torch.int64),
        token_staleness=torch.zeros(3, dtype=torch.int64),
    )
    assert float(loss_of(tokens, divisor=4.0).total) == pytest.approx(-1 / 4)


def test_kl_and_entropy_count_on_masked_tokens_and_the_entropy_is_encouraged():
    tokens = TokenBatch(
        policy_logprobs=torch.tensor([-1.0, -2.0], dtype=F64),
        proximal_logprobs=torch.tensor([-1.0, -2.0], dtype=F64),
        behavior_logprobs=torch.tensor([-1.0, -20.0], dtype=F64),
        advantages=torch.tensor([0.5, 0.5], dtype=F64),
        is_loss=torch.ones(2, dtype=torch.bool),
        sequence_ids=torch.zeros(2, dtype=torch.int64),
        token_staleness=torch.zeros(2, dtype=torch.int64),
    )
    reference = torch.tensor([-1.5, -2.5], dtype=F64)
    entropy = torch.tensor([0.3, 0.7], dtype=F64)
    loss = loss_of(
        tokens,
        divisor=2.0,
        entropy=entropy,
        reference=reference,
        kl_coefficient=0.1,
        kl_estimator="k1",
        entropy_coefficient=0.01,
    )
    assert float(loss.total) == pytest.approx(-(0.5 - 0.1 * (0.5 + 0.5) + 0.01 * (0.3 + 0.7)) / 2)
    assert loss.kl.tolist() == pytest.approx([0.5, 0.5])


def test_a_non_finite_reference_or_entropy_leaves_its_token_out():
    tokens = random_tokens()
    reference = tokens.policy_logprobs.detach() - 0.1
    reference[0] = math.nan
    entropy = torch.ones_like(reference)
    entropy[1] = math.inf
    loss = loss_of(tokens, reference=reference, entropy=entropy, kl_coefficient=0.1, entropy_coefficient=0.1)
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert bool(tokens.policy_logprobs.grad.isfinite().all())


@pytest.mark.parametrize("rule", RULES)
def test_parts_add_up_to_the_whole_in_loss_and_gradient(rule):
    """Microbatches and ranks: any split between responses, over the one divisor, gives the same sum."""
    whole = random_tokens()
    reference = whole.policy_logprobs.detach() + 0.1
    keep = torch.arange(12) % 5 != 0
    whole = TokenBatch(**{name: getattr(whole, name) for name in TokenBatch.__slots__} | {"batch_mask": keep})
    total = loss_of(whole, rule, reference=reference, kl_coefficient=0.3).total
    total.backward()
    expected = whole.policy_logprobs.grad.clone()
    for cuts in ([4, 12], [8, 12], [4, 8, 12]):
        whole.policy_logprobs.grad = None
        sums, first = 0.0, 0
        for last in cuts:
            chosen = torch.arange(first, last)
            loss = loss_of(part_of(whole, chosen), rule, reference=reference[chosen], kl_coefficient=0.3)
            loss.total.backward()
            sums += float(loss.total.detach())
            first = last
        assert sums == pytest.approx(float(total.detach()), rel=1e-12)
        assert torch.allclose(whole.policy_logprobs.grad, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_order_of_tokens_does_not_matter(rule):
    tokens = random_tokens(seed=3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = part_of(tokens, order)
    found, expected = (float(loss_of(each, rule).total.detach()) for each in (shuffled, tokens))
    assert found == pytest.approx(expected, rel=1e-12)


def surrogate_without_stopped_gradients(rule, tokens, policy):
    """What each rule's gradient is the gradient of, with stopped parts held at their values: a plain reference."""
    w = (tokens.proximal_logprobs - tokens.behavior_logprobs).exp()
    u = (policy - tokens.proximal_logprobs).exp()
    r = (policy - tokens.behavior_logprobs).exp()
    held = (tokens.policy_logprobs.detach() - tokens.behavior_logprobs).exp()
    a = tokens.advantages
    clip_u = torch.minimum(u * a, u.clamp(0.8, 1.2) * a)
    match rule:
        case "decoupled":
            return w.clamp(max=5.0) * clip_u
        case "tis":
            return w.clamp(max=2.0) * clip_u
        case "icepop":
            return w * ((w >= 0.5) & (w <= 5.0)) * clip_u
        case "cispo":
            return held.clamp(max=5.0) * a * policy
        case "ppo":
            return torch.minimum(r * a, r.clamp(0.8, 1.2) * a)
        case "none":
            return a * policy
    raise AssertionError(rule)


@pytest.mark.parametrize("rule", ["decoupled", "tis", "icepop", "cispo", "ppo", "none"])
def test_gradient_against_finite_differences_in_float64(rule):
    tokens = random_tokens(seed=7)
    loss_of(tokens, rule, divisor=10.0).total.backward()
    start = tokens.policy_logprobs.detach()
    step = 1e-6
    for index in range(12):
        up, down = start.clone(), start.clone()
        up[index] += step
        down[index] -= step
        high, low = (
            -surrogate_without_stopped_gradients(rule, tokens, shifted)[tokens.is_loss].sum() / 10.0
            for shifted in (up, down)
        )
        assert float(tokens.policy_logprobs.grad[index]) == pytest.approx(float((high - low) / (2 * step)), abs=1e-8)


@pytest.mark.parametrize("rule", ["decoupled", "kpop", "m2po", "ppo", "none"])
def test_torch_gradcheck(rule):
    tokens = random_tokens(size=6, seed=11, requires_grad=False)
    keep = torch.tensor([True, True, False, True, True, True])

    def total(policy: torch.Tensor) -> torch.Tensor:
        fields = {name: getattr(tokens, name) for name in TokenBatch.__slots__}
        return loss_of(TokenBatch(**fields | {"policy_logprobs": policy, "batch_mask": keep}), rule).total

    assert torch.autograd.gradcheck(total, tokens.policy_logprobs.clone().requires_grad_())

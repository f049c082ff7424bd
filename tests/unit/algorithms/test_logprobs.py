import math

import pytest
import torch

from ring_async.algorithms.entropy import entropy_of
from ring_async.algorithms.logprobs import bounded_ratio, score_tokens


def make_inputs(dtype=torch.float64, size=7, width=5, vocabulary=11):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(size, width, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    targets = torch.randint(0, vocabulary, (size,), generator=generator)
    temperatures = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.7, 1.3, 1.0], dtype=dtype)
    return hidden, weight, targets, temperatures


def test_log_probabilities_of_the_tempered_distribution_by_hand():
    hidden = torch.tensor([[1.0], [1.0]])
    weight = torch.tensor([[0.0], [math.log(3.0)]])
    logprobs, entropy = score_tokens(hidden, weight, None, torch.tensor([1, 1]), torch.tensor([1.0, 0.5]))
    assert logprobs.tolist() == pytest.approx([math.log(3 / 4), math.log(9 / 10)])
    half = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy.tolist() == pytest.approx([half, -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))])


def test_head_runs_in_float32_whatever_the_model_runs_in():
    hidden, weight, targets, temperatures = make_inputs(torch.float32)
    logprobs, _ = score_tokens(hidden.bfloat16(), weight.bfloat16(), None, targets, temperatures)
    expected, _ = score_tokens(hidden.bfloat16().float(), weight.bfloat16().float(), None, targets, temperatures)
    assert logprobs.dtype == torch.float32
    assert torch.equal(logprobs, expected)


def test_gradient_in_float64():
    hidden, weight, targets, temperatures = make_inputs(size=7, vocabulary=4)
    targets %= 4

    def both(hidden, weight):
        return score_tokens(hidden, weight, None, targets, temperatures, entropy_grad=True)

    assert torch.autograd.gradcheck(both, (hidden.requires_grad_(), weight.requires_grad_()))


def test_entropy_carries_a_gradient_only_if_wanted():
    hidden, weight, targets, temperatures = make_inputs()
    hidden.requires_grad_()
    _, entropy = score_tokens(hidden, weight, None, targets, temperatures)
    assert not entropy.requires_grad
    _, entropy = score_tokens(hidden, weight, None, targets, temperatures, entropy_grad=True)
    assert entropy.requires_grad


def test_entropy_of_a_certain_token_is_zero():
    assert float(entropy_of(torch.tensor([[0.0, -math.inf, -math.inf]]))) == 0.0
    assert float(entropy_of(torch.full((1, 8), -math.log(8.0)))) == pytest.approx(math.log(8.0))


def test_ratios_are_bounded_and_one_at_equality():
    numerator, denominator = torch.tensor([-1.0, 0.0, -900.0]), torch.tensor([-1.0, -900.0, 0.0])
    assert bounded_ratio(numerator, denominator).tolist() == pytest.approx([1.0, math.exp(20), math.exp(-20)])

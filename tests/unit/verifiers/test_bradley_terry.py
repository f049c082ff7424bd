import math

import pytest
import torch

from ring_async.verifiers.bradley_terry import bradley_terry_loss


def test_loss_by_hand():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(2.0))) / 2
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, rel=1e-6)
    centered = bradley_terry_loss(chosen, rejected, center=0.1).item()
    assert centered == pytest.approx(expected + 0.1 * (1.0 + 4.0) / 2, rel=1e-6)


def test_gradient_by_hand():
    chosen = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(chosen, rejected).backward()
    expected = 1 / (1 + math.exp(-1.0))  # σ(rejected − chosen)
    assert chosen.grad.item() == pytest.approx(-expected)
    assert rejected.grad.item() == pytest.approx(expected)


def test_equal_rewards_cost_log_two():
    assert bradley_terry_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))

"""Losses on routers, by hand."""

import pytest
import torch

pytest.importorskip("megatron.core")

from ring_async.training.megatron.routing import RoutedTokens, visits_of


def test_visits_are_counted_for_experts_that_nobody_visits_too():
    assert visits_of(torch.tensor([[0, 2], [2, 3]]), 5).tolist() == [1, 0, 2, 1, 0]


def test_the_z_loss_is_a_mean_over_tokens_weighted_by_their_share_and_leaves_the_output_alone():
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0], [9.0, 9.0]], requires_grad=True)
    output = torch.ones(3, 4, requires_grad=True)
    tokens = RoutedTokens(num_own=2, num_tokens=2, share=0.5, z_coefficient=0.1)
    found = tokens.with_losses(output, logits, logits.softmax(-1), torch.tensor([[1], [0], [0]]))
    assert torch.equal(found, output)
    (3 * found.sum()).backward()
    assert torch.equal(output.grad, torch.full((3, 4), 3.0))
    by_hand = logits.detach().clone().requires_grad_()
    (0.5 * 0.1 * by_hand[:2].logsumexp(-1).square().mean()).backward()
    torch.testing.assert_close(logits.grad, by_hand.grad)


def test_without_a_coefficient_or_tokens_nothing_is_joined():
    output = torch.ones(1, 4)
    for tokens in (RoutedTokens(1, 1, share=1.0), RoutedTokens(0, 0, share=1.0, z_coefficient=1.0)):
        assert tokens.with_losses(output, output, output, torch.zeros(1, 1, dtype=torch.int64)) is output

"""KL estimators by exact enumeration of a small vocabulary: values, and what their gradients really are."""

import pytest
import torch

from ring_async.algorithms.kl import MAX_KL_WEIGHT, kl_estimate

F64 = torch.float64
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()
BEHAVIOR = torch.tensor([0.25, 0.35, 0.4], dtype=F64).log()
LOGITS = torch.tensor([0.2, -0.3, 0.5], dtype=F64)


def gradient(function) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    function(logits.log_softmax(0)).backward()
    return logits.grad


def exact_kl(policy: torch.Tensor) -> torch.Tensor:
    return (policy.exp() * (policy - REFERENCE)).sum()


def expected_estimate(policy: torch.Tensor, behavior: torch.Tensor, estimator: str) -> torch.Tensor:
    """E over tokens sampled from `behavior`: what a loss over sampled tokens averages to."""
    return (behavior.detach().exp() * kl_estimate(policy, REFERENCE, behavior.detach(), estimator)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3_weighted"])
def test_unbiased_on_policy(estimator):
    policy = LOGITS.log_softmax(0)
    assert float(expected_estimate(policy, policy, estimator)) == pytest.approx(float(exact_kl(policy)))


def test_values_by_hand():
    policy, reference, behavior = (torch.tensor([value], dtype=F64) for value in (-1.0, -1.5, -1.2))
    values = {name: float(kl_estimate(policy, reference, behavior, name)) for name in ("k1", "k2", "k3", "k3_weighted")}
    k3 = 0.6065306597126334 - 1 + 0.5
    assert values == pytest.approx({"k1": 0.5, "k2": 0.125, "k3": k3, "k3_weighted": 1.2214027581601699 * k3})


def test_weighted_k3_has_the_reverse_kl_value_and_gradient_off_policy():
    policy = LOGITS.log_softmax(0)
    assert float(expected_estimate(policy, BEHAVIOR, "k3_weighted")) == pytest.approx(float(exact_kl(policy)))
    found = gradient(lambda policy: expected_estimate(policy, BEHAVIOR, "k3_weighted"))
    assert torch.allclose(found, gradient(exact_kl), atol=1e-12)


def test_plain_k3_has_the_forward_kl_gradient_and_k1_none():
    on_policy = LOGITS.log_softmax(0)
    found = gradient(lambda policy: expected_estimate(policy, on_policy, "k3"))
    forward = gradient(lambda policy: (REFERENCE.exp() * (REFERENCE - policy)).sum())
    assert torch.allclose(found, forward, atol=1e-12)
    assert not torch.allclose(found, gradient(exact_kl), atol=1e-3)
    nothing = gradient(lambda policy: expected_estimate(policy, on_policy, "k1"))
    assert torch.allclose(nothing, torch.zeros(3, dtype=F64), atol=1e-12)


def test_k2_has_the_reverse_kl_gradient_on_policy():
    on_policy = LOGITS.log_softmax(0)
    found = gradient(lambda policy: expected_estimate(policy, on_policy, "k2"))
    assert torch.allclose(found, gradient(exact_kl), atol=1e-12)


def test_the_weight_is_bounded():
    policy, reference, behavior = (torch.tensor([value], dtype=F64) for value in (-1.0, -1.5, -9.0))
    k3 = float(kl_estimate(policy, reference, behavior, "k3"))
    assert float(kl_estimate(policy, reference, behavior, "k3_weighted")) == pytest.approx(MAX_KL_WEIGHT * k3)

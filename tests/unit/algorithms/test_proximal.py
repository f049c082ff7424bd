import pytest
import torch

from ring_async.algorithms.proximal import loglinear_proximal


def test_interpolates_by_the_share_of_versions_behind():
    policy = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    behavior = torch.tensor([-3.0, -3.0, -3.0])
    staleness = torch.tensor([0, 1, 3])
    found = loglinear_proximal(policy, behavior, staleness, 0.5)
    # a = 0/0.5, 1/1.5, 3/3.5
    assert found.tolist() == pytest.approx([-3.0, -3 + 2 * 2 / 3, -3 + 2 * 6 / 7])
    assert not found.requires_grad


def test_before_the_first_step_it_is_the_policy_itself():
    policy, behavior = torch.tensor([-1.0, -1.5]), torch.tensor([-3.0, -2.0])
    assert loglinear_proximal(policy, behavior, torch.tensor([0, 4]), 0.0).tolist() == [-1.0, -1.5]

"""Float32 master weights beside a bfloat16 model."""

import pytest
import torch

from ring_async.training.hf.precision import MasterWeights


def make_model() -> torch.nn.Linear:
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    return model


def test_gradients_of_several_forwards_add_up_in_float32():
    model = make_model()
    master = MasterWeights(model)
    assert model.weight.dtype == torch.bfloat16
    for scale in (256.0, 1.0):  # in bfloat16 256 + 1 is 256
        (model(torch.tensor([[scale, 0.0]], dtype=torch.bfloat16))).sum().backward()
        assert model.weight.grad is None
    assert master.parameters["weight"].grad.tolist() == [[257.0, 0.0]]


def test_steps_too_small_for_bfloat16_are_kept_and_shown_once_they_add_up():
    model = make_model()
    master = MasterWeights(model)
    weight = master.parameters["weight"]
    seen = []
    for _ in range(4):
        with torch.no_grad():
            weight += 0.002  # bfloat16 has 0.0078 between two numbers above 1
        master.refresh()
        seen.append(model.weight[0, 0].item())
    assert weight[0, 0].item() == pytest.approx(1.008, abs=1e-6)
    assert seen == [1.0, 1.0078125, 1.0078125, 1.0078125]


def test_buffers_keep_their_precision():
    model = make_model()
    model.register_buffer("frequencies", torch.tensor([1.0, 0.1]))
    MasterWeights(model)
    assert model.frequencies.dtype == torch.float32
    assert model.weight.dtype == torch.bfloat16

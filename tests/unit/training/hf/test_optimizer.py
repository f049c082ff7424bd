import pytest
import torch

from ring_async.config.learning import LearnerSection
from ring_async.errors import StorageError
from ring_async.training.hf.optimizer import STEM, Optimizer
from ring_async.training.hf.tensor_files import write_tensors


def make_parameters(value: float = 1.0) -> dict[str, torch.nn.Parameter]:
    return {
        "matrix": torch.nn.Parameter(torch.full((2, 2), value)),
        "norm": torch.nn.Parameter(torch.full((2,), value)),
    }


def make_optimizer(parameters, **section) -> Optimizer:
    return Optimizer(parameters.items(), LearnerSection(**({"learning_rate": 0.1} | section)))


def step(parameters, optimizer, scale=1.0) -> float:
    for parameter in parameters.values():
        parameter.grad = scale * torch.arange(1.0, parameter.numel() + 1).view(parameter.shape)
    return optimizer.step()


def test_first_step_by_hand():
    parameters = make_parameters()
    step(parameters, make_optimizer(parameters, weight_decay=0.5))
    # Adam's first step is the learning rate in the gradient's direction; only the matrix decays, by 0.1 · 0.5.
    assert parameters["matrix"].flatten().tolist() == pytest.approx([0.85] * 4)
    assert parameters["norm"].tolist() == pytest.approx([0.9] * 2)


def test_warm_up_is_linear_then_constant():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, warmup_steps=4)
    assert [step(parameters, optimizer) for _ in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    optimizer.learning_rate = 0.2
    assert step(parameters, optimizer) == pytest.approx(0.2)


def test_gradients_are_clipped_to_the_norm():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, max_grad_norm=1.0)
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    norm = float(optimizer.clip())
    assert norm == pytest.approx((6 * 4) ** 0.5)
    assert parameters["norm"].grad.tolist() == pytest.approx([2 / norm] * 2)


def test_a_restored_optimizer_takes_the_same_step_bit_for_bit(tmp_path):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters)
    for scale in (1.0, -0.3, 2.0):
        step(parameters, optimizer, scale)
    write_tensors(tmp_path, STEM, optimizer.state(), 0, 1)
    again = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    restored = make_optimizer(again, learning_rate=0.05)
    restored.restore(tmp_path)
    assert restored.num_steps == 3
    optimizer.learning_rate = 0.05  # the newly configured one is in force
    step(parameters, optimizer, 0.7)
    step(again, restored, 0.7)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, again[name])


def test_state_of_another_model_is_refused(tmp_path):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters)
    step(parameters, optimizer)
    write_tensors(tmp_path, STEM, optimizer.state(), 0, 1)
    with pytest.raises(StorageError, match="norm"):
        make_optimizer({"matrix": parameters["matrix"]}).restore(tmp_path)
    wider = {"matrix": torch.nn.Parameter(torch.ones(3, 3)), "norm": parameters["norm"]}
    with pytest.raises(StorageError, match="matrix"):
        make_optimizer(wider).restore(tmp_path)

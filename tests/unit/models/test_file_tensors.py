"""The tensors of files as parts of the parameters in memory."""

import torch

from ring_async.models.file_tensors import file_tensors


def test_a_parameter_is_a_tensor_of_its_own_name():
    (found,) = file_tensors("model.norm.weight", (4,))
    assert (found.name, found.shape, found.expert) == ("model.norm.weight", (4,), None)
    parameter = torch.arange(4)
    assert found.of(parameter) is parameter


def test_experts_are_three_matrices_each_that_cover_both_parameters_exactly_once():
    gate_up, down = torch.arange(2 * 6 * 4).view(2, 6, 4), torch.arange(2 * 4 * 3).view(2, 4, 3)
    found = {
        part.name: part.of(parameter)
        for name, parameter in (("l.mlp.experts.gate_up_proj", gate_up), ("l.mlp.experts.down_proj", down))
        for part in file_tensors(name, tuple(parameter.shape))
    }
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        f"l.mlp.experts.{expert}.{name}.weight": shape
        for expert in range(2)
        for name, shape in (("gate_proj", (3, 4)), ("up_proj", (3, 4)), ("down_proj", (4, 3)))
    }
    again = [
        torch.cat([found[f"l.mlp.experts.{e}.{part}.weight"] for part in ("gate_proj", "up_proj")]) for e in (0, 1)
    ]
    assert torch.equal(torch.stack(again), gate_up)
    assert torch.equal(torch.stack([found[f"l.mlp.experts.{e}.down_proj.weight"] for e in (0, 1)]), down)

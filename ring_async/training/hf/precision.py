"""The weights that the optimizer steps, and those that the model computes with.

Owns: float32 master weights beside a bfloat16 model on one GPU, and their gradients, added up in float32. Does not own
the optimizer, nor sharded weights, which FSDP keeps in float32 and casts as it gathers them (`hf.sharding`).

Learning rates of 1e-6 vanish in bfloat16 weights: the smallest change that one of size 1 can show is 8e-3.
Autocast over float32 weights was rejected on a GPU: it casts every weight again in every forward.

Invariants: after `refresh` the model's weights are the master weights, rounded; a gradient exists in bfloat16 only from
the moment autograd has made it until it is added.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


class MasterWeights:
    """Takes a float32 model over: the model becomes bfloat16, its float32 parameters become the master weights.

        master = MasterWeights(model)
        loss.backward()                      # adds to master.parameters[name].grad, in float32
        optimizer.step(); master.refresh()

    Attributes:
        parameters: the master weights by name; what the optimizer, checkpoints and versions are made of.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = {
            name: torch.nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for name, parameter in model.named_parameters()
        }
        round_parameters(model)
        self._computed = dict(model.named_parameters())
        for name, parameter in self._computed.items():
            parameter.register_post_accumulate_grad_hook(functools.partial(_add, self.parameters[name]))

    def refresh(self) -> None:
        """Round the master weights into the model."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._computed.values()), list(self.parameters.values()))


def round_parameters(model: torch.nn.Module) -> None:
    """Make a model's parameters bfloat16, and nothing else of it: rotations of positions are wrong by more than a
    probability bears if their frequencies, a buffer, are rounded, and engines keep them in float32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def _add(master: torch.nn.Parameter, computed: Tensor) -> None:
    """Move a gradient to its master weight."""
    assert computed.grad is not None
    if master.grad is None:
        master.grad = computed.grad.float()
    else:
        master.grad.add_(computed.grad)
    computed.grad = None

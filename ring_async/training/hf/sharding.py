"""A model's weights over ranks: FSDP2, its sums of gradients, and whole tensors made of slices again.

Owns: how a model is split (a slice of every parameter's first dimension on each rank of a copy), the sum of gradients
over ranks, and the gathering of tensors for versions. Does not own the process group (`training.ranks`), nor files
(`hf.saving`).

Invariants: weights, gradients and moments are float32 slices; a rank gathers one layer's weights at a time, in the
precision of its products, and reduces gradients in float32. Gradients are summed over ranks, never averaged, since
every rank divides its loss by the global Φ.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ring_async.core.weights.plan import TensorShape
from ring_async.models.file_tensors import file_tensors
from ring_async.training.hf.experts import spread_experts
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.slices import local, rows_of_slice
from ring_async.training.ranks import Ranks


def shard_model(model: PackedModel, mesh: DeviceMesh, *, bfloat16: bool, spreads_experts: bool = False) -> None:
    """Split a model's weights over the ranks of a mesh, in place; each rank holds the same whole weights before.

    Args:
        model: to split.
        mesh: `(shard,)` or `(data, shard)`.
        bfloat16: whether weights are gathered in bfloat16.
        spreads_experts: whether tokens travel to the ranks of their experts (`hf.experts`).
    """
    kept = spread_experts(model.module, mesh, model.device) if spreads_experts else None
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, ignored_params=kept)
    # The head is used in backward again, to make its logits once more: its weights stay.
    fully_shard(model.scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=kept)
    for module in (*model.layers, model.scorer):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums


class GatheredWeights:
    """A `WeightsSnapshot` of slices: every rank keeps its own, in host memory, and rank 0 gathers a tensor at a time.

    Taken on every rank. Rank 0 hands `tensors` to the channel; the others call `serve`, which returns once rank 0 has
    all it asked for. Only ranks of the first copy of the model take part.

    Args:
        parameters: sliced, by name in memory.
        dtype: of the version.
        ranks: of the learner.
        num_slices: ranks of one copy.
    """

    def __init__(self, parameters: dict[str, Tensor], dtype: torch.dtype, ranks: Ranks, num_slices: int) -> None:
        self._ranks = ranks
        self._num_slices = num_slices
        self._names = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self._dtype = dtype
        kept = parameters if ranks.rank < num_slices else {}
        self._slices = {name: local(value.detach()).to("cpu", dtype, copy=True) for name, value in kept.items()}
        self._handed_out = self._gather_all()

    @property
    def shapes(self) -> tuple[TensorShape, ...]:
        """See `WeightsSnapshot.shapes`."""
        dtype = str(self._dtype).removeprefix("torch.")
        return tuple(
            TensorShape(tensor.name, dtype, tensor.shape)
            for name, shape in self._names.items()
            for tensor in file_tensors(name, shape)
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `WeightsSnapshot.tensors`."""
        return self._handed_out

    def serve(self) -> None:
        """On the other ranks: give rank 0 every slice, when it asks."""
        for name in list(self._slices):
            self._gather(name)

    def close(self) -> None:
        """Take the rest from the other ranks, which wait to be rid of it. See `WeightsSnapshot.close`."""
        if self._ranks.rank == 0:
            for _ in self._handed_out:
                pass
        self._slices.clear()

    def _gather_all(self) -> Iterator[tuple[str, Tensor]]:
        for name, shape in self._names.items():
            parameter = self._gather(name)
            assert parameter is not None
            for tensor in file_tensors(name, shape):
                # A view would keep the whole parameter for the sake of one expert.
                yield tensor.name, tensor.of(parameter).clone() if tensor.expert is not None else parameter

    def _gather(self, name: str) -> Tensor | None:
        """One parameter, whole, on rank 0; None elsewhere."""
        own, shape = self._slices.pop(name), self._names[name]
        rows = rows_of_slice(shape[0], self._num_slices)
        padded = torch.zeros((rows, *shape[1:]), dtype=own.dtype)
        padded[: own.shape[0]] = own
        if self._ranks.rank != 0:
            dist.send(padded, 0, group=self._ranks.publish_group)
            return None
        gathered = torch.empty((rows * self._num_slices, *shape[1:]), dtype=own.dtype)
        gathered[:rows] = padded
        for rank in range(1, self._num_slices):
            dist.recv(gathered[rank * rows : (rank + 1) * rows], rank, group=self._ranks.publish_group)
        return gathered[: shape[0]]

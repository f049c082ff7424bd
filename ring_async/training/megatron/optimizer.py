"""AdamW over Megatron-core's gradient buffers: each data-parallel rank steps its part of every buffer.

    buffer of a model's weights  [ rank 0's part | rank 1's part ]
    gradients: summed into the part of the rank that has it; after the step every rank is given all parts

Owns: float32 master weights and moments of this rank's parts, the norm over all ranks, clipping, the schedule.
Megatron-core's own optimizer waits for the GPU once a parameter to compute the norm, takes steps whose gradient is not
finite, and resumes with a wrong count of steps. Does not own the buffers and their sums (Megatron-core's DDP), nor how
moments are saved (`saving`).

Invariants: the norm counts each weight once, however many ranks hold it; a weight is stepped on one rank and then the
same on all; matrices decay, vectors do not, whatever part of one a rank has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from ring_async.config.learning import LearnerSection
from ring_async.training.megatron.names.blocks import Mapped
from ring_async.training.megatron.places import Place

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Part:
    """This rank's part of one parameter.

    Attributes:
        name: Megatron-core's name of the parameter on this rank.
        shape: of the parameter.
        rows: the part, of the flat parameter.
        computed: view of the weights that the model computes with.
        master: float32 weights that are stepped; the same memory where the model computes in float32.
        gradient: float32 view of the buffer.
        group: the ranks that have the other parts.
        is_counted: whether the norm counts it here.
    """

    name: str
    shape: torch.Size
    rows: range
    computed: Tensor
    master: torch.nn.Parameter
    gradient: Tensor
    group: dist.ProcessGroup
    is_counted: bool


class ShardedAdamW:
    """AdamW over the parts of this rank.

    Args:
        ddp: the model in its buffers.
        mapped: its parameters, by name.
        place: of this rank.
        section: of the configuration.
    """

    def __init__(
        self, ddp: DistributedDataParallel, mapped: Mapping[str, Mapped], place: Place, section: LearnerSection
    ) -> None:
        self._ddp = ddp
        self.learning_rate = section.learning_rate
        self._warmup_steps = section.warmup_steps
        self._max_grad_norm = section.max_grad_norm
        self.num_steps = 0
        self.parts = list(_parts(ddp, mapped, place))
        for part in self.parts:
            part.master.grad = part.gradient
        matrices = [part.master for part in self.parts if len(part.shape) >= 2]
        vectors = [part.master for part in self.parts if len(part.shape) < 2]
        groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=section.learning_rate,
            betas=section.adam_betas,
            eps=section.adam_eps,
            fused=True,
        )

    def next_learning_rate(self) -> float:
        """Learning rate of the next step: it rises linearly over `warmup_steps`, then stays."""
        return self.learning_rate * min(1.0, (self.num_steps + 1) / max(1, self._warmup_steps))

    def zero_grad(self) -> None:
        self._ddp.zero_grad_buffer()

    def clip(self) -> Tensor:
        """Scale the gradients to a norm of at most `max_grad_norm`; returns the norm before. Scalar, on every rank."""
        gradients = [part.gradient for part in self.parts]
        counted = [part.gradient for part in self.parts if part.is_counted]
        device = self._ddp.buffers[0].grad_data.device
        square = torch.stack(torch._foreach_norm(counted)).square().sum() if counted else torch.zeros((), device=device)
        dist.all_reduce(square)
        norm = square.sqrt()
        if gradients:
            torch._foreach_mul_(gradients, (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self) -> float:
        """Take a step; returns the learning rate it was taken at."""
        learning_rate = self.next_learning_rate()
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.num_steps += 1
        self.refresh()
        return learning_rate

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the master weights into the model, and give every rank all parts."""
        rounded = [part for part in self.parts if part.computed.dtype != torch.float32]
        if rounded:
            torch._foreach_copy_([part.computed for part in rounded], [part.master for part in rounded])
        self._ddp.start_param_sync(force_sync=True)

    @torch.no_grad()
    def take_weights(self) -> None:
        """Start from the weights that the model has."""
        for part in self.parts:
            part.master.copy_(part.computed)

    # -- state

    def whole(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """This rank's parameters made whole from the parts of all, one after another: `master` weights or a moment,
        float32, with their names.

        Every rank must ask for all of them. Parameters without a moment are left out, alike on all ranks.
        """
        own = {part.name: part for part in self.parts}
        for name, (shape, group) in self._everything().items():
            if kind in MOMENTS and not self.num_steps:
                continue
            flat = torch.zeros(shape.numel(), device=self._ddp.buffers[0].grad_data.device)
            if (part := own.get(name)) is not None:
                values = part.master if kind == "master" else self._adamw.state[part.master][kind]
                flat[part.rows.start : part.rows.stop] = values.detach()
            if group.size() > 1:
                dist.all_reduce(flat, group=group)
            yield name, flat.view(shape)

    @torch.no_grad()
    def put(self, kind: str, name: str, values: Tensor) -> None:
        """Overwrite this rank's part of a parameter's master weight or moment. Args: `values`, of all of it."""
        for part in self.parts:
            if part.name != name:
                continue
            own = values.flatten()[part.rows.start : part.rows.stop]
            if kind == "master":
                part.master.copy_(own)
                continue
            state = self._adamw.state[part.master]
            state.setdefault("step", torch.tensor(float(self.num_steps), device=own.device))
            state[kind] = own.clone()

    def begin_restore(self, num_steps: int) -> None:
        """Forget all moments, before each is `put`."""
        self.num_steps = num_steps
        self._adamw.state.clear()

    def _everything(self) -> dict[str, tuple[torch.Size, dist.ProcessGroup]]:
        names = {parameter: name for name, parameter in self._ddp.module.named_parameters()}
        return {
            names[parameter]: (parameter.shape, buffer.data_parallel_group)
            for buffer in (*self._ddp.buffers, *self._ddp.expert_parallel_buffers)
            for parameter in buffer.params
        }


def _parts(ddp: DistributedDataParallel, mapped: Mapping[str, Mapped], place: Place) -> Iterator[Part]:
    names = {parameter: name for name, parameter in ddp.module.named_parameters()}
    for buffer in (*ddp.buffers, *ddp.expert_parallel_buffers):
        group = buffer.data_parallel_group
        for bucket in buffer.buckets:
            size = bucket.grad_data.numel() // group.size()
            first = bucket.offset + group.rank() * size
            for parameter in bucket.params_list:
                start, end, _ = buffer.param_index_map[parameter]
                low, high = max(start, first), min(end, first + size)
                if low >= high:
                    continue
                computed = buffer.param_data[low:high]
                is_copy = mapped[names[parameter]].held == "whole" and place.tensor != 0
                yield Part(
                    name=names[parameter],
                    shape=parameter.shape,
                    rows=range(low - start, high - start),
                    computed=computed,
                    master=torch.nn.Parameter(computed if computed.dtype == torch.float32 else computed.float()),
                    gradient=buffer.grad_data[low:high],
                    group=group,
                    # The second copy of a tied head, and what tensor ranks all hold, count once.
                    is_counted=not (is_copy or getattr(parameter, "shared", False)),
                )

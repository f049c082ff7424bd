"""Experts over ranks: each rank of a copy of the model keeps whole experts, and tokens travel to them.

    token ──router──▶ (expert, weight) × k ──all to all──▶ the expert's rank ──grouped_mm──▶ back ──sum──▶ token

Owns: which rank has which experts, the two exchanges of a layer, and their gradients. Does not own the other weights,
which FSDP slices and gathers (`hf.sharding`).

The experts of a layer are one tensor `[E, …]`, and FSDP's slices of its first dimension are E/S whole experts for each
of S ranks. Those slices are kept as they are: a checkpoint, a version and an optimizer's state look the same with and
without experts over ranks. What differs is what moves: tokens instead of weights (for Ling-lite 1.1 GB a layer).

Invariants: all ranks of a copy make the same forwards in the same order (`idle_microbatch` sees to it); the gradient of
an expert is complete on its rank, and is summed over copies of the model.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from ring_async.errors import ConfigError

_WEIGHTS = ("gate_up_proj", "down_proj")


def spread_experts(model: Any, mesh: DeviceMesh, device: torch.device) -> set[torch.nn.Parameter]:
    """Leave each rank its own experts, in place; returns their weights, which FSDP must leave alone.

    Args:
        model: with the same whole weights on every rank.
        mesh: `(shard,)` or `(data, shard)`.
        device: of the rank.

    Raises:
        ConfigError: the model has no experts, or not a whole number for each rank.
    """
    layers = [one for one in model.modules() if all(hasattr(one, name) for name in (*_WEIGHTS, "num_experts"))]
    num_ranks = mesh.size(mesh.ndim - 1)
    if not layers or any(one.num_experts % num_ranks or not one.has_gate or one.has_bias for one in layers):
        raise ConfigError(
            f"learner.parallel.expert: {type(model).__name__} has no gated experts without bias that {num_ranks} ranks "
            "can share out equally; set it to 1"
        )
    kept: set[torch.nn.Parameter] = set()
    for experts in layers:
        num_own = experts.num_experts // num_ranks
        first = mesh.get_local_rank(mesh.ndim - 1) * num_own
        for name in _WEIGHTS:
            own = getattr(experts, name).detach()[first : first + num_own].to(device, copy=True)
            placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
            parameter = torch.nn.Parameter(DTensor.from_local(own, mesh, placements, run_check=False))
            setattr(experts, name, parameter)
            kept.add(parameter)
        experts.exchange = _Exchange(mesh, num_own)
        experts.forward = types.MethodType(_forward, experts)
    return kept


class _Exchange:
    """The groups of ranks that tokens and gradients travel in."""

    def __init__(self, mesh: DeviceMesh, num_own: int) -> None:
        self.num_own = num_own
        self.group = mesh.get_group(mesh.ndim - 1)
        self.copies = mesh.get_group(0) if mesh.ndim > 1 else None
        self.num_ranks = mesh.size(mesh.ndim - 1)


@torch.compiler.disable
def _forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts' part of a layer: `[n, d]`, `[n, k]`, `[n, k]` → `[n, d]`. Out of compiled graphs: sizes differ."""
    exchange: _Exchange = experts.exchange
    num_tokens, top_k = top_k_index.shape
    wanted = top_k_index.reshape(-1)
    order = wanted.argsort(stable=True)
    by_rank = torch.bincount(wanted // exchange.num_own, minlength=exchange.num_ranks)
    arriving = torch.empty_like(by_rank)
    dist.all_to_all_single(arriving, by_rank, group=exchange.group)
    sizes = (arriving.tolist(), by_rank.tolist())
    local = torch.empty(int(arriving.sum()), dtype=wanted.dtype, device=wanted.device)
    dist.all_to_all_single(local, wanted[order] % exchange.num_own, *sizes, group=exchange.group)
    received = _Travel.apply(hidden_states[order // top_k], *sizes, exchange.group)
    computed = _compute(experts, received, local)
    returned = _Travel.apply(computed, *reversed(sizes), exchange.group)
    weighted = returned * top_k_weights.reshape(-1)[order, None].to(returned.dtype)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    summed: Tensor = weighted[back].view(num_tokens, top_k, -1).sum(1)
    return summed.to(hidden_states.dtype)


def _compute(experts: Any, received: Tensor, local: Tensor) -> Tensor:
    """What this rank's experts make of the tokens that arrived: `[m, d]`, int64 `[m]` → `[m, d]`."""
    exchange: _Exchange = experts.exchange
    gate_up, down = (
        _SumOverCopies.apply(getattr(experts, name).to_local(), exchange.copies).to(received.dtype) for name in _WEIGHTS
    )
    if not received.shape[0]:  # the grouped product takes no empty matrix; the weights' gradients are zero, not none
        return received + 0 * (gate_up.sum() + down.sum())
    order = local.argsort(stable=True)
    ends = torch.bincount(local, minlength=exchange.num_own).cumsum(0).to(torch.int32)
    joined = torch.nn.functional.grouped_mm(received[order], gate_up.transpose(-2, -1), offs=ends)
    gated = experts._apply_gate(joined)
    found = torch.nn.functional.grouped_mm(gated, down.transpose(-2, -1), offs=ends)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return found[back]


class _Travel(torch.autograd.Function):
    """Rows to other ranks; their gradients come back the same way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, arriving: list[int], leaving: list[int], group: Any) -> Tensor:
        ctx.sizes = (arriving, leaving)
        ctx.group = group
        return _exchanged(rows, arriving, leaving, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arriving, leaving = ctx.sizes
        return _exchanged(grads[0], leaving, arriving, ctx.group), None, None, None


def _exchanged(rows: Tensor, arriving: list[int], leaving: list[int], group: Any) -> Tensor:
    found = rows.new_empty((sum(arriving), *rows.shape[1:]))
    dist.all_to_all_single(found, rows.contiguous(), arriving, leaving, group=group)
    return found


class _SumOverCopies(torch.autograd.Function):
    """A weight as it is; its gradient is summed over copies of the model."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copies: Any) -> Tensor:
        ctx.copies = copies
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        if ctx.copies is not None:
            grad = grad.contiguous()
            dist.all_reduce(grad, group=ctx.copies)
        return grad, None

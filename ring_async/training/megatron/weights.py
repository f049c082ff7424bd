"""Tensors of the whole model made of the blocks that ranks hold, one at a time; and the other way round.

    exchange = Exchange(names, parallel, ranks)
    exchange.collect("lm_head.weight", own_parameters, to_rank=0)      # every rank calls; the tensor on rank 0

Owns: which rank holds which block of which tensor, and sending them over the ranks' group for host memory. Does not own
what the values are (weights, moments), nor files.

Invariants: every rank walks through the tensors in one order, so that sends and receives meet; a tensor's blocks come
from one copy of it; no rank holds more than one whole tensor for another's sake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ring_async.config.learning import ParallelSection
from ring_async.errors import StorageError
from ring_async.training.hf.tensor_files import TensorFiles
from ring_async.training.megatron.names.blocks import Block, Mapped
from ring_async.training.megatron.names.llama import LlamaNames
from ring_async.training.megatron.places import place_of
from ring_async.training.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Holding:
    """A block of one tensor in one parameter of a rank."""

    parameter: str
    block: Block


class Exchange:
    """Who holds what.

    Attributes:
        shapes: of all tensors, by name, in the model's order.
    """

    def __init__(self, names: LlamaNames, parallel: ParallelSection, ranks: Ranks) -> None:
        self._ranks = ranks
        self._held: list[dict[str, list[Holding]]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        given: set[tuple[str, range, range | None]] = set()
        for rank in range(parallel.num_ranks):
            held: dict[str, list[Holding]] = {}
            for mapped in names.of_rank(place_of(rank, parallel)):
                for block in mapped.blocks:
                    self.shapes.setdefault(block.name, block.shape)
                    # The first rank that has a block hands it out; the others have copies.
                    key = (block.name, block.rows, block.columns)
                    if key not in given:
                        given.add(key)
                        held.setdefault(block.name, []).append(Holding(mapped.name, block))
            self._held.append(held)

    def own_parameters(self) -> set[str]:
        """The parameters of this rank that it hands blocks of out."""
        return {one.parameter for holdings in self._held[self._ranks.rank].values() for one in holdings}

    def holders(self, name: str) -> list[int]:
        """The ranks that hand out blocks of a tensor."""
        return [rank for rank, held in enumerate(self._held) if name in held]

    def collect(
        self,
        name: str,
        parameters: Mapping[str, Tensor],
        *,
        to_rank: int,
        dtype: torch.dtype,
        group: dist.ProcessGroup | None,
    ) -> Tensor | None:
        """One tensor, whole, on a rank; None elsewhere. All ranks that hold some of it, and that rank, must call.

        Args:
            name: of the tensor.
            parameters: this rank's, on the host, by name.
            to_rank: that is given the tensor.
            dtype: of the tensor.
            group: over host memory.
        """
        own = self._held[self._ranks.rank].get(name, [])
        if self._ranks.rank != to_rank:
            if own:
                flat = torch.cat([one.block.of(parameters[one.parameter]).flatten() for one in own])
                dist.send(flat.to(dtype), to_rank, group=group)
            return None
        whole = torch.empty(self.shapes[name], dtype=dtype)
        for one in own:
            one.block.of_tensor(whole).copy_(one.block.of(parameters[one.parameter]))
        for rank in self.holders(name):
            if rank == to_rank:
                continue
            views = [one.block.of_tensor(whole) for one in self._held[rank][name]]
            received = torch.empty(sum(view.numel() for view in views), dtype=dtype)
            dist.recv(received, rank, group=group)
            for view, values in zip(views, received.split([view.numel() for view in views]), strict=True):
                view.copy_(values.view(view.shape))
        return whole


def read_parameter(files: TensorFiles, mapped: Mapped, into: Tensor, prefix: str = "") -> None:
    """Fill a parameter of this rank from files of whole tensors; rows of padding stay as they are.

    Args:
        files: that hold the tensors.
        mapped: the parameter.
        into: its values.
        prefix: of the tensors' names in the files.

    Raises:
        StorageError: a tensor is missing, or of another shape.
    """
    for block in mapped.blocks:
        name = prefix + block.name
        if name not in files.names or files.shape(name) != block.shape:
            found = files.shape(name) if name in files.names else "missing"
            raise StorageError(f"{files.folder} is of another model: {name} is {found}, not {block.shape}")
        rows = files.read(name, block.rows.start, block.rows.stop)
        if block.columns is not None:
            rows = rows[:, block.columns.start : block.columns.stop]
        block.of(into).copy_(rows)

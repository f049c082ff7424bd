"""A version of a model that Megatron-core split, handed out a tensor at a time.

Owns: the snapshot. Does not own who holds what (`weights`), nor the channel (`transport.weights`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ring_async.core.weights.plan import TensorShape
from ring_async.training.megatron.weights import Exchange
from ring_async.training.ranks import Ranks


class ExchangedWeights:
    """A `WeightsSnapshot`: every rank keeps what it hands out, in host memory, and rank 0 gathers a tensor at a time.

    Rank 0 hands `tensors` to the channel; the others call `serve`, which returns once rank 0 has all.

    Args:
        exchange: who holds what.
        parameters: of this rank, on the host, by name; taken over.
        dtype: of the version.
        ranks: of the learner.
    """

    def __init__(self, exchange: Exchange, parameters: dict[str, Tensor], dtype: torch.dtype, ranks: Ranks) -> None:
        self._exchange = exchange
        self._parameters = parameters
        self._dtype = dtype
        self._ranks = ranks
        self._handed_out = self._gather_all()

    @property
    def shapes(self) -> tuple[TensorShape, ...]:
        """See `WeightsSnapshot.shapes`."""
        dtype = str(self._dtype).removeprefix("torch.")
        return tuple(TensorShape(name, dtype, shape) for name, shape in self._exchange.shapes.items())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `WeightsSnapshot.tensors`."""
        return self._handed_out

    def serve(self) -> None:
        """On the other ranks: give rank 0 this rank's blocks of every tensor, when it asks."""
        for name in self._exchange.shapes:
            self._gather(name)

    def close(self) -> None:
        """Take the rest from the other ranks, which wait to be rid of it. See `WeightsSnapshot.close`."""
        if self._ranks.rank == 0 and not self._ranks.is_alone:
            for _ in self._handed_out:
                pass
        self._parameters.clear()

    def _gather_all(self) -> Iterator[tuple[str, Tensor]]:
        for name in self._exchange.shapes:
            tensor = self._gather(name)
            assert tensor is not None
            yield name, tensor

    def _gather(self, name: str) -> Tensor | None:
        return self._exchange.collect(
            name, self._parameters, to_rank=0, dtype=self._dtype, group=self._ranks.publish_group
        )

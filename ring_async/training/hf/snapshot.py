"""A version of a one-device model, copied whole and handed out tensor by tensor.

Owns: the copy. Does not own: when it is taken (the learner) and how it is sent (`transport.weights`).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ring_async.core.weights.plan import TensorShape


class CopiedWeights:
    """A `WeightsSnapshot` over tensors that nobody else writes to.

        snapshot = CopiedWeights({"lm_head.weight": head.detach().clone()})
        dict(snapshot.tensors())        # {"lm_head.weight": …}; the snapshot holds it no longer

    Args:
        tensors: by Hugging Face name; taken over.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._shapes = tuple(
            TensorShape(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in tensors.items()
        )

    @property
    def shapes(self) -> tuple[TensorShape, ...]:
        """See `WeightsSnapshot.shapes`."""
        return self._shapes

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `WeightsSnapshot.tensors`."""
        for name in list(self._tensors):
            yield name, self._tensors.pop(name)

    def serve(self) -> None:
        """There is no other rank."""

    def close(self) -> None:
        """See `WeightsSnapshot.close`."""
        self._tensors.clear()

"""Tensors and the flat bytes of a version: planning a layout, flattening a tensor, viewing bytes as tensors again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch

from ring_async.core.weights.plan import TensorShape, WeightsLayout, plan_layout
from ring_async.errors import WeightsError
from ring_async.transport.weights.base import Tensors


def describe(
    tensors: Tensors, shapes: Sequence[TensorShape] | None, bucket_bytes: int
) -> tuple[WeightsLayout, Iterator[torch.Tensor]]:
    """Plan the layout of a version.

    Args:
        tensors: as `WeightSender.publish` takes them.
        shapes: likewise; None: `tensors` are listed here to see what there is.
        bucket_bytes: of the layout.

    Returns:
        The layout, and the tensors in its order; they are asked for as the iterator goes on, which raises WeightsError
        where one is missing or not what `shapes` promised.

    Raises:
        WeightsError: a dtype that cannot be sent, or a name given twice.
    """
    if shapes is None:
        tensors = list(tensors)
        shapes = [shape_of(name, tensor) for name, tensor in tensors]
    try:
        return _plan_again(tuple(shapes), bucket_bytes), _checked(tensors, shapes)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def shape_of(name: str, tensor: torch.Tensor) -> TensorShape:
    """A tensor's shape and dtype under a name."""
    return TensorShape(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


@lru_cache(maxsize=4)
def _plan_again(shapes: tuple[TensorShape, ...], bucket_bytes: int) -> WeightsLayout:
    """The layout of a model does not change from version to version."""
    return plan_layout(shapes, bucket_bytes)


def _checked(tensors: Tensors, shapes: Sequence[TensorShape]) -> Iterator[torch.Tensor]:
    handed_out = iter(tensors)
    for promised in shapes:
        name, tensor = next(handed_out, ("nothing", torch.empty(0)))
        if shape_of(name, tensor) != promised:
            raise WeightsError(f"tensor {promised.name} was promised as {promised}, {shape_of(name, tensor)} came")
        yield tensor
        del tensor
    if next(handed_out, None) is not None:
        raise WeightsError(f"more tensors came than the {len(shapes)} that were promised")


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, uint8 `[num_bytes]`, on its own device; a copy only if it is not contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def view_tensors(layout: WeightsLayout, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a version as views into its bytes.

    Args:
        layout: of the version.
        flat: uint8 `[layout.num_bytes]`, aligned to 64 bytes.
    """
    views = {}
    for spec in layout.tensors:
        dtype = getattr(torch, spec.dtype)
        views[spec.name] = flat[spec.start : spec.end].view(dtype).view(spec.shape)
    return views

"""Tensors and the flat bytes of a version: planning a layout, flattening a tensor, viewing bytes as tensors again."""

from __future__ import annotations

from functools import lru_cache

import torch

from ring_async.core.weights.plan import Layout, plan_layout
from ring_async.errors import WeightsError
from ring_async.transport.weights.base import Tensors


def describe(tensors: Tensors, bucket_bytes: int) -> tuple[Layout, list[torch.Tensor]]:
    """Plan the layout of a version.

    Returns:
        The layout, and the tensors in its order.

    Raises:
        WeightsError: a dtype that cannot be sent, or a name given twice.
    """
    named = list(tensors)
    specs = tuple((name, tensor.dtype, tensor.shape) for name, tensor in named)
    try:
        return _plan_again(specs, bucket_bytes), [tensor for _, tensor in named]
    except ValueError as error:
        raise WeightsError(str(error)) from error


@lru_cache(maxsize=4)
def _plan_again(specs: tuple[tuple[str, torch.dtype, torch.Size], ...], bucket_bytes: int) -> Layout:
    """The layout of a model does not change from version to version."""
    plain = ((name, str(dtype).removeprefix("torch."), tuple(shape)) for name, dtype, shape in specs)
    return plan_layout(plain, bucket_bytes)


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, uint8 `[num_bytes]`, on its own device; a copy only if it is not contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def view_tensors(layout: Layout, flat: torch.Tensor) -> dict[str, torch.Tensor]:
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

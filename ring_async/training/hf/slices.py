"""Tensors that ranks hold in slices of their first dimension, as FSDP2 splits them.

Owns: what a rank's slice is. A tensor that is whole is its own slice, so callers need not ask which it is.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all ranks where it is in slices; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's slice of a tensor; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The row of the whole tensor at which this rank's slice begins."""
    if not isinstance(tensor, DTensor):
        return 0
    shard = tensor.device_mesh.ndim - 1
    rows = rows_of_slice(tensor.shape[0], tensor.device_mesh.size(shard))
    return min(tensor.shape[0], tensor.device_mesh.get_local_rank(shard) * rows)


def rows_of_slice(num_rows: int, num_slices: int) -> int:
    """Rows of every slice but the last ones, which may have fewer, or none."""
    return -(-num_rows // num_slices)


def sliced_like(parameter: Tensor, own: Tensor) -> Tensor:
    """A tensor of this rank's slice `own`, split over the ranks as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return own
    return DTensor.from_local(
        own, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )

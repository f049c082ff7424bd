"""A packed batch as flat tensors on the device that trains.

Owns: the copy from rows `[B, C]` to tensors `[B · C]`, and what an objective adds per position before the first
gradient. Does not own which positions a microbatch scores (`layout`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ring_async.batches import PackedBatch


class BatchTensors:
    """The columns of one batch that a loss reads, flat.

    Position row · C + column of the rows is entry row · C + column here, so `Microbatch.positions` index every tensor:

        tensors = BatchTensors(batch, device)
        tensors.advantages[positions]        # float32 [T], of the tokens that this microbatch scores

    Attributes:
        input_ids: int64 `[B · C]`.
        behavior_logprobs, advantages, temperatures: float32 `[B · C]`.
        token_staleness: int64 `[B · C]`, versions.
        is_loss: bool `[B · C]`, tokens that carry loss in this optimizer step; the trainer narrows it per minibatch.
        proximal_logprobs: float32 `[B · C]`, if they were computed beforehand.
        batch_mask: bool `[B · C]`, if the rule keeps tokens by a mask over the whole batch.
    """

    def __init__(self, batch: PackedBatch, device: torch.device) -> None:
        self.input_ids = flat_tensor(batch.input_ids, device).long()
        self.behavior_logprobs = flat_tensor(batch.behavior_logprobs, device)
        self.advantages = flat_tensor(batch.advantages, device)
        self.token_staleness = flat_tensor(batch.token_staleness, device).long()
        self.temperatures = flat_tensor(batch.temperatures, device)
        self.is_loss = flat_tensor(batch.loss_mask != 0, device)
        self.proximal_logprobs: Tensor | None = None
        self.batch_mask: Tensor | None = None


def flat_tensor(values: Any, device: torch.device) -> Tensor:
    """An array `[B, C]` as a tensor `[B · C]` of its own on the device."""
    # Copied: received arrays are read-only views of frames, which torch can't represent.
    return to_device(np.array(values).reshape(-1), device)


def to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on the device. A GPU goes on with its work meanwhile: pageable memory would make it stop."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

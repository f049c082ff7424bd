"""One forward's tensors on the device, made of a microbatch.

Owns: padding to a multiple of the tensor ranks, rotary angles, and which of the attention kernels reads what. Does not
own the choice of tokens (`training.layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ring_async.training.batch_tensors import BatchTensors, to_device
from ring_async.training.hf.attention import AttentionBlocks
from ring_async.training.hf.varlen import PackedSequences
from ring_async.training.layout import Microbatch
from ring_async.training.megatron.attention import PackedTokens
from ring_async.training.megatron.places import Place
from ring_async.training.megatron.routing import RoutedTokens
from ring_async.training.megatron.shape import DecoderShape
from ring_async.training.objective import RlObjective
from ring_async.training.routed_experts import COLUMN, recorded_experts


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """What every stage is given of one forward.

    Attributes:
        input_ids: int64 `[U']`, U tokens and padding.
        tokens: positions and sequences, for attention.
        routed: this rank's tokens, for experts.
        sources: int64 `[T]`, token whose hidden state predicts each scored one.
        targets: int64 `[T]`, the scored tokens.
        temperatures: float32 `[T]`.
        positions: int64 `[T]`, where scored tokens lie in the batch.
        sequence_ids: int64 `[T]`.
        entropy_grad: whether the entropy carries a gradient.
    """

    input_ids: Tensor
    tokens: PackedTokens
    routed: RoutedTokens
    sources: Tensor
    targets: Tensor
    temperatures: Tensor
    positions: Tensor
    sequence_ids: Tensor
    entropy_grad: bool


class InputMaker:
    """Makes the inputs of forwards.

    Args:
        rotary: transformers' module of rotary angles.
        place: of this rank.
        device: that computes.
        dtype: of products.
        attention: the kernel, `varlen` or `blocks`.
        replayed: the decoder whose experts are those that the engine chose; None: its routers choose.
    """

    def __init__(
        self,
        rotary: Any,
        place: Place,
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: str,
        replayed: DecoderShape | None = None,
    ) -> None:
        self._rotary = rotary.to(device)
        self._place = place
        self._device = device
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._attention = attention
        self._replayed = replayed

    def make(
        self,
        microbatch: Microbatch,
        tensors: BatchTensors,
        *,
        objective: RlObjective | None = None,
        batch_tokens: int = 0,
        replays: bool = True,
    ) -> ForwardInputs:
        """The inputs of one microbatch.

        Args:
            microbatch: what to compute.
            tensors: of the batch.
            objective: that is differentiated; None: there is no gradient.
            batch_tokens: of the optimizer step's forwards, all data ranks', where routers have losses.
            replays: False for the reference, which knows nothing of what the engine chose.
        """
        num_tokens = microbatch.input_ids.size
        num_padded = -num_tokens % self._place.num_tensor
        positions = self._index(microbatch.positions)
        routed = self._routed(microbatch, (num_tokens + num_padded) // self._place.num_tensor, objective, batch_tokens)
        if self._replayed is not None and replays:
            routed.replay = self._recorded(microbatch, tensors, self._replayed)
        cos, sin = self._rotary(self._like, self._index(np.pad(microbatch.position_ids, (0, num_padded)))[None])
        return ForwardInputs(
            input_ids=self._index(np.pad(microbatch.input_ids, (0, num_padded))),
            tokens=PackedTokens(
                qkv_format="thd",
                cos=cos[0, :, None],
                sin=sin[0, :, None],
                sequences=self._sequences(microbatch, num_padded),
            ),
            routed=routed,
            sources=self._index(microbatch.sources),
            targets=tensors.input_ids[positions],
            temperatures=tensors.temperatures[positions],
            positions=positions,
            sequence_ids=self._index(microbatch.sequence_ids),
            entropy_grad=objective is not None and objective.needs_entropy_grad,
        )

    def _routed(
        self, microbatch: Microbatch, own: int, objective: RlObjective | None, batch_tokens: int
    ) -> RoutedTokens:
        # An idle forward has a token that nobody scores: it counts in no loss.
        num_tokens = microbatch.input_ids.size if microbatch.positions.size else 0
        num_own = min(max(num_tokens - self._place.tensor * own, 0), own)
        routed = RoutedTokens(num_own, num_tokens)
        if objective is not None and batch_tokens:
            routed.share = num_tokens / batch_tokens
            routed.balance_coefficient = objective.settings.balance_coefficient
            routed.z_coefficient = objective.settings.router_z_coefficient
        return routed

    def _recorded(self, microbatch: Microbatch, tensors: BatchTensors, decoder: DecoderShape) -> Tensor:
        """The choices that this rank's tokens must make: int64 `[U_r, layers with experts, k]`."""
        experts = decoder.experts
        assert experts is not None
        num_ranks = self._place.num_tensor
        padding = np.full(-microbatch.origins.size % num_ranks, -1, np.int64)
        origins = np.concatenate([microbatch.origins, padding]).reshape(num_ranks, -1)[self._place.tensor]
        return self._index(
            recorded_experts(
                tensors.columns.get(COLUMN),
                origins,
                num_layers=sum(decoder.experts_of(layer) is not None for layer in range(decoder.num_layers)),
                per_token=experts.per_token,
                num_experts=experts.num_experts,
            )
        )

    def _sequences(self, microbatch: Microbatch, num_padded: int) -> AttentionBlocks | PackedSequences:
        if self._attention == "varlen":
            return PackedSequences.of(microbatch, self._device, num_padded)
        gathers = tuple(self._index(gather) for gather in microbatch.gathers)
        # Nobody reads what padding attends to.
        return AttentionBlocks(gathers, self._index(np.pad(microbatch.scatter, (0, num_padded))))

    def _index(self, values: Any) -> Tensor:
        return to_device(values, self._device)

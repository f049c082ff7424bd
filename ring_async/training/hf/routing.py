"""Replay of an engine's choice of experts in the learner (R3), by a hook on the routers of a model.

    column `routed_experts` of a batch ──recorded──▶ [U, layers, k], −1 where nothing was recorded ──▶ routers

Owns: the routers' forward under replay: the experts are the recorded ones, their weights come
from the learner's own gate, softmax over all experts and renormalised as the model does, so that the gate learns as
usual. Does not own the column (`training.routed_experts`).

Why: learner and engine round differently, so now and then another expert wins by a hair, and a token's probability
jumps. Prompt tokens, and responses of engines that recorded nothing, are routed by the learner itself. Source: R3,
arXiv 2510.11370.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from ring_async.errors import ConfigError
from ring_async.training.routed_experts import recorded_experts


class RouterReplay:
    """The routers of one model, first layer to last.

        replay = RouterReplay(model)
        replay.use(recorded)               # int64 [U, layers, k]
        model(…)                           # these experts
        replay.use(None)                   # the routers' own again

    Args:
        model: whose routers take part; their forward is replaced.

    Raises:
        ConfigError: the model has no experts, or routers that are unknown here.
    """

    def __init__(self, model: Any) -> None:
        self._routers: list[Any] = [one for one in model.modules() if isinstance(one, Qwen3MoeTopKRouter)]
        if not self._routers:
            raise ConfigError(
                f"learner.engine_options.replay_routing: {type(model).__name__} has no router that is known here; "
                "leave it out"
            )
        if self._routers[0].top_k < 2:
            raise ConfigError(
                "learner.engine_options.replay_routing: with one expert a token, a token that was not recorded "
                "cannot be told; leave it out"
            )
        for router in self._routers:
            router.replayed = None
            router.forward = types.MethodType(_route, router)

    def recorded(self, column: npt.NDArray[Any] | None, origins: npt.NDArray[np.int64]) -> Tensor:
        """The recorded experts of some tokens: int64 `[U, layers, k]`, −1 where nothing was recorded.

        Arguments and errors as for `recorded_experts`.
        """
        router = self._routers[0]
        found = recorded_experts(
            column,
            origins,
            num_layers=len(self._routers),
            per_token=router.top_k,
            num_experts=router.num_experts,
        )
        return torch.from_numpy(found)

    def use(self, experts: Tensor | None) -> None:
        """Route the next forward, and what is computed of it again, by these experts; None: by the routers' own.

        Args:
            experts: int64 `[U, layers, k]` on the device, as `recorded` returns them.
        """
        for layer, router in enumerate(self._routers):
            router.replayed = None if experts is None else experts[:, layer].contiguous()


def _route(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Qwen3MoeTopKRouter.forward`, with `router.replayed` in place of its choice where that is not −1."""
    flat = hidden_states.reshape(-1, router.hidden_dim)
    logits = torch.nn.functional.linear(flat, router.weight)
    probabilities = logits.softmax(-1, dtype=torch.float32)
    chosen = probabilities.topk(router.top_k, dim=-1).indices
    if router.replayed is not None:
        chosen = torch.where(router.replayed >= 0, router.replayed, chosen)
    weights = probabilities.gather(1, chosen)
    if router.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(logits.dtype), chosen

"""What a forward knows of its tokens' routes: which count, which experts they must visit, what their balance costs.

Owns: choices that come from elsewhere (router replay), the two auxiliary losses, and how they enter the gradient. Does
not own the experts (`experts`).

    balance = E · Σ_e f_e · P_e      f_e: share of a forward's choices that fall on expert e; P_e: its mean probability
    z = mean (log Σ exp logits)²     over a forward's tokens

Each is summed over layers, and over a batch's forwards, each weighted by its share of the batch's tokens: α_bal and α_z
stand outside of 1/Φ, however many forwards there are. Tensor ranks have a part of a forward's tokens each; their parts
of the losses add up. Megatron-core's own losses weigh microbatches alike, or grow with their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.router_replay import RouterReplay
from torch import Tensor


@dataclass
class RoutedTokens:
    """The tokens of one forward, as layers of experts are given them.

    Attributes:
        num_own: how many of this rank's tokens `[U_r]`, the first ones, are no padding, which counts in no loss.
        num_tokens: of the forward, on all tensor ranks.
        share: of the batch's tokens that those are.
        balance_coefficient, z_coefficient: of the auxiliary losses; 0: none.
        replay: by layer, counted from 1: whose choices hold. Empty: the router's own.
    """

    num_own: int
    num_tokens: int
    share: float = 0.0
    balance_coefficient: float = 0.0
    z_coefficient: float = 0.0
    replay: dict[int, RouterReplay] = field(default_factory=dict)

    def choose(self, layer: int, probabilities: Tensor, per_token: int) -> tuple[Tensor, Tensor]:
        """The probabilities and numbers of the experts that each token visits. `[U_r, k]` each."""
        if layer in self.replay:
            chosen: tuple[Tensor, Tensor] = self.replay[layer].get_replay_topk(
                probabilities, per_token, default_compute_topk=_top
            )
            return chosen
        return _top(probabilities, per_token)

    def with_losses(self, output: Tensor, logits: Tensor, probabilities: Tensor, chosen: Tensor) -> Tensor:
        """The output unchanged, with the gradients of a layer's losses behind it.

        Args:
            output: of the layer.
            logits: `[U_r, E]`, of the router.
            probabilities: float32 `[U_r, E]`.
            chosen: int64 `[U_r, k]`.
        """
        if not self.num_tokens or not (self.balance_coefficient or self.z_coefficient):
            return output
        own = slice(0, self.num_own)
        loss = self.z_coefficient * logits[own].float().logsumexp(-1).square().sum()
        if self.balance_coefficient:
            num_experts = probabilities.shape[1]
            visits = visits_of(chosen[own], num_experts)
            dist.all_reduce(visits, group=parallel_state.get_tensor_model_parallel_group())
            shares = visits / (self.num_tokens * chosen.shape[1])
            loss = loss + self.balance_coefficient * num_experts * (shares * probabilities[own].sum(0)).sum()
        joined: Tensor = _Joined.apply(output, loss * (self.share / self.num_tokens))
        return joined


class _Joined(torch.autograd.Function):
    """Hands the first tensor on; in backward the second, a loss, has gradient 1."""

    @staticmethod
    def forward(ctx: object, output: Tensor, loss: Tensor) -> Tensor:
        del ctx, loss
        return output.view_as(output)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return grads[0], torch.ones((), dtype=torch.float32, device=grads[0].device)


def visits_of(chosen: Tensor, num_experts: int) -> Tensor:
    """How many choices fall on each expert. int64 `[E]`; `torch.bincount` would wait for the GPU."""
    visits = torch.zeros(num_experts, dtype=torch.int64, device=chosen.device)
    return visits.scatter_add_(0, chosen.flatten(), torch.ones_like(chosen.flatten()))


def _top(probabilities: Tensor, per_token: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    values, indices = probabilities.topk(per_token, dim=-1)
    return values, indices

"""What a forward knows of its tokens' routes: which count, which experts they must visit, what their balance costs.

Owns: choices that come from elsewhere (router replay), the two auxiliary losses, and how they enter the gradient. Does
not own the experts (`experts`).

    balance = E · Σ_e f_e · P_e      f_e: share of the tokens' choices that fall on expert e; P_e: its mean probability
    z = mean (log Σ exp logits)²

Both are means over a forward's tokens, and a batch's loss is the sum over forwards, each weighted by its share of the
batch's tokens: α_bal and α_z stand outside of 1/Φ, however many forwards there are. `f` is over this rank's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from megatron.core.transformer.moe.router_replay import RouterReplay
from torch import Tensor


@dataclass
class RoutedTokens:
    """The tokens of one forward, as layers of experts are given them.

    Attributes:
        num_real: how many of this rank's tokens `[U_r]`, the first ones, are no padding, which counts in no loss.
        share: of the batch's tokens that these are, over all ranks.
        balance_coefficient, z_coefficient: of the auxiliary losses; 0: none.
        replay: by layer, counted from 1: whose choices hold. Empty: the router's own.
    """

    num_real: int
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

    def with_losses(self, output: Tensor, balance: Tensor, z: Tensor) -> Tensor:
        """The output unchanged, with the losses' gradients behind it."""
        loss = self.share * (self.balance_coefficient * balance + self.z_coefficient * z)
        joined: Tensor = _Joined.apply(output, loss)
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


def balance_loss(probabilities: Tensor, chosen: Tensor, tokens: RoutedTokens) -> Tensor:
    """How unevenly experts are visited; 1 where all are alike. Args: `[U, E]` and int64 `[U, k]`."""
    probabilities, chosen = probabilities[: tokens.num_real], chosen[: tokens.num_real]
    num_experts = probabilities.shape[1]
    visits = torch.bincount(chosen.flatten(), minlength=num_experts) / max(1, chosen.numel())
    return num_experts * (visits * probabilities.sum(0)).sum() / max(1, tokens.num_real)


def z_loss(logits: Tensor, tokens: RoutedTokens) -> Tensor:
    """The mean of the squared normalizers: large logits make rounding choose. Args: float32 `[U, E]`."""
    return logits[: tokens.num_real].logsumexp(-1).square().sum() / max(1, tokens.num_real)


def _top(probabilities: Tensor, per_token: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    values, indices = probabilities.topk(per_token, dim=-1)
    return values, indices

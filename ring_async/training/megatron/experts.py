"""A layer of experts: each token is sent to the k that its router chooses, wherever they are, and their answers come
back weighted.

    router ─▶ k experts a token ─▶ sorted by expert ─▶ (to the rank that has it) ─▶ two grouped products ─▶ back, summed

Owns: the whole feed-forward part of such a layer, which stands in for Megatron-core's: that one copies sizes to the
host five times a layer, and runs experts one by one without Transformer Engine. With experts on other ranks one copy is
left: how many rows each rank sends, which the exchange must know. Does not own which ranks those are (`places`).

Experts are whole: tensor ranks, which have different tokens under sequence parallelism, share experts out as data ranks
do. Invariants: no token is dropped; a rank's rows are sorted by expert, so that each product is one call; without a
choice from elsewhere, the router's own decides.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import all_to_all
from megatron.core.transformer.mlp import MLP
from torch import Tensor
from torch.nn import functional

from ring_async.training.megatron.routing import RoutedTokens, visits_of
from ring_async.training.megatron.shape import ExpertShape

_grouped_mm: Any = getattr(functional, "grouped_mm", None) or torch._grouped_mm
"""torch's product of sorted rows with a matrix each; up to 2.11 under the second name."""


class ExpertLayer(torch.nn.Module):
    """Router, this rank's experts, and the experts that every token visits. Megatron-core constructs it.

    Args:
        config: Megatron-core's.
        shape: of the experts.
        shared: Megatron-core's parts of a dense feed-forward part, for `shape.shared_width`.
    """

    def __init__(self, config: Any, shape: ExpertShape, shared: Any) -> None:
        super().__init__()
        self.shape = shape
        self._group = parallel_state.get_expert_model_parallel_group()
        num_own = shape.num_experts // self._group.size()
        options = {"dtype": config.params_dtype}
        self.router = torch.nn.Parameter(torch.empty(shape.num_experts, config.hidden_size, **options))
        self.router.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.gate_up = torch.nn.Parameter(torch.empty(num_own, 2 * shape.width, config.hidden_size, **options))
        self.down = torch.nn.Parameter(torch.empty(num_own, config.hidden_size, shape.width, **options))
        for parameter in (self.gate_up, self.down):
            # In the gradient buffers whose ranks hold the same experts.
            parameter.allreduce = False  # type: ignore[attr-defined]
        self.shared_experts: MLP | None = None
        if shape.shared_width:
            own = copy.copy(config)  # the width of the second product is read from here alone
            own.ffn_hidden_size = shape.shared_width
            self.shared_experts = MLP(own, shared)
        self.layer_number = 0

    def set_layer_number(self, layer_number: int) -> None:
        """Megatron-core counts layers from 1, over all stages."""
        self.layer_number = layer_number

    def forward(self, hidden: Tensor, padding_mask: RoutedTokens) -> tuple[Tensor, None]:
        """The experts' weighted answers.

        Args:
            hidden: `[U_r, 1, d]`, this rank's tokens.
            padding_mask: what is known of them; Megatron-core's name for what it hands to such layers alone.

        Returns:
            As `hidden`, and no bias.
        """
        tokens = padding_mask
        rows = hidden.flatten(0, 1)
        logits = functional.linear(rows, self.router)
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)
        weights, chosen = tokens.choose(self.layer_number, probabilities, self.shape.per_token)
        if self.shape.renormalizes:
            weights = weights / weights.sum(-1, keepdim=True)
        output = self._routed(rows, weights.to(rows.dtype), chosen).view_as(hidden)
        output = tokens.with_losses(output, logits, probabilities, chosen)
        if self.shared_experts is not None:
            output = output + self.shared_experts(hidden)[0]
        return output, None

    def _routed(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """`[U, d]`: for each row the sum over its k experts. Args: `weights` `[U, k]`, `chosen` int64 `[U, k]`."""
        order = chosen.flatten().argsort(stable=True)
        sources = order // self.shape.per_token
        counts = visits_of(chosen, self.shape.num_experts)
        sent = rows.index_select(0, sources)
        answers = self._answers(sent, counts) if self._group.size() == 1 else self._exchanged(sent, counts)
        answers = answers * weights.flatten()[order][:, None]
        return torch.zeros_like(rows).index_add(0, sources, answers)

    def _exchanged(self, sent: Tensor, counts: Tensor) -> Tensor:
        """Send rows to the ranks that have their experts, and take the answers back, in the order sent."""
        num_ranks = self._group.size()
        of_all = counts.new_empty(num_ranks * counts.numel())
        dist.all_gather_into_tensor(of_all, counts, group=self._group)
        num_own = counts.numel() // num_ranks
        own = of_all.view(num_ranks, num_ranks, num_own)[:, self._group.rank()]  # [sender, own expert]
        num_sent, num_received = torch.stack([counts.view(num_ranks, num_own).sum(1), own.sum(1)]).tolist()
        received = all_to_all(self._group, sent, num_received, num_sent)
        # Each sender's rows are sorted by expert; all rows must be.
        experts = torch.arange(num_own, device=sent.device).repeat(num_ranks)
        order = experts.repeat_interleave(own.flatten(), output_size=sum(num_received)).argsort(stable=True)
        answers = self._answers(received.index_select(0, order), own.sum(0))
        back = torch.empty_like(answers).index_copy(0, order, answers)
        returned: Tensor = all_to_all(self._group, back, num_sent, num_received)
        return returned

    def _answers(self, rows: Tensor, counts: Tensor) -> Tensor:
        """This rank's experts on rows sorted by expert. Args: `counts` int64 `[own experts]`, rows of each."""
        ends = counts.cumsum(0).to(torch.int32)
        if not rows.shape[0]:  # the grouped product takes no empty matrix; the weights' gradients are zero, not none
            return rows + 0 * (self.gate_up.sum() + self.down.sum())
        gate, up = _grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        answers: Tensor = _grouped_mm(functional.silu(gate) * up, self.down.transpose(1, 2), offs=ends)
        return answers

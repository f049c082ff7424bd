"""Qwen3-MoE: Qwen3's attention, and experts. The router's matrix is whole on every rank, experts are whole on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ring_async.training.megatron.names.blocks import Block, Mapped, part, whole
from ring_async.training.megatron.names.llama import dense
from ring_async.training.megatron.names.qwen3 import Qwen3Names
from ring_async.training.megatron.places import Place
from ring_async.training.megatron.shape import DecoderShape, ExpertShape


class Qwen3MoeNames(Qwen3Names):
    """See `LlamaNames`."""

    def read(self, config: Any) -> DecoderShape:
        is_sparse = [
            layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0
            for layer in range(config.num_hidden_layers)
        ]
        return dataclasses.replace(
            super().read(config),
            experts=ExpertShape(
                num_experts=config.num_experts,
                per_token=config.num_experts_per_tok,
                width=config.moe_intermediate_size,
                renormalizes=config.norm_topk_prob,
            ),
            dense_layers=frozenset(layer for layer, sparse in enumerate(is_sparse) if not sparse),
        )

    def of_feed_forward(self, own: str, theirs: str, layer: int, place: Place) -> Iterator[Mapped]:
        experts, hidden = self.shape.experts_of(layer), self.shape.hidden
        if experts is None:
            yield from dense(own, theirs, (self.shape.feed_forward, hidden), place)
            return
        router = whole(f"{theirs}gate.weight", experts.num_experts, hidden)
        yield Mapped(f"{own}router", "whole", (router,))
        held = part(experts.num_experts, place.expert, place.num_expert)
        yield Mapped(f"{own}gate_up", "expert", tuple(_gate_up(theirs, held, (experts.width, hidden))))
        down = tuple(
            whole(f"{theirs}experts.{expert}.down_proj.weight", hidden, experts.width, expert=index)
            for index, expert in enumerate(held)
        )
        yield Mapped(f"{own}down", "expert", down)
        if experts.shared_width:
            yield from dense(f"{own}shared_experts.", f"{theirs}shared_experts.", (experts.shared_width, hidden), place)


def _gate_up(theirs: str, held: range, shape: tuple[int, int]) -> Iterator[Block]:
    for index, expert in enumerate(held):
        for place, name in enumerate(("gate_proj", "up_proj")):
            tensor = f"{theirs}experts.{expert}.{name}.weight"
            yield whole(tensor, *shape, at=place * shape[0], expert=index)

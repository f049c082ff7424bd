"""A decoder in Megatron-core's layers that scores flat microbatches: this rank's part of it.

Owns: Megatron-core's configuration and layer specification for a `DecoderShape`, our parts in place of those that need
Transformer Engine or wait for the GPU (norm, core attention, experts, head), and the forward. Does not own weights'
names (`names`), gradients and their buffers (`engine`), the split (`groups`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ring_async.training.megatron.attention import PackedAttention
from ring_async.training.megatron.experts import ExpertLayer
from ring_async.training.megatron.head import score_over_ranks
from ring_async.training.megatron.inputs import ForwardInputs
from ring_async.training.megatron.names.llama import layers_of_stage
from ring_async.training.megatron.places import Place
from ring_async.training.megatron.shape import DecoderShape

HEAD_NORM_EPS = 1e-7

# It warns of every feed-forward part that it did not make.
logging.getLogger("megatron.core.transformer.transformer_layer").setLevel(logging.ERROR)


class RmsNorm(torch.nn.Module):
    """The norm of Megatron-core's layers: its own refuses sequence parallelism without Transformer Engine."""

    def __init__(self, config: Any, hidden_size: int, eps: float, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Each tensor rank sees a part of the tokens: their gradients are added up.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class Decoder(GPTModel):  # type: ignore[misc]
    """This rank's stage and slices of a decoder; the embedding on the first stage, the head on the last.

    Args:
        shape: of the whole decoder.
        place: of this rank.
        dtype: of weights and products.
        recompute: share of the layers whose activations are computed again.
    """

    def __init__(self, shape: DecoderShape, place: Place, *, dtype: torch.dtype, recompute: float) -> None:
        config = megatron_config(shape, place, dtype)
        rows = shape.rows_of_vocabulary(place.tensor, place.num_tensor)
        super().__init__(
            config,
            layer_spec(shape, place),
            vocab_size=place.num_tensor * -(-shape.vocabulary // place.num_tensor),
            max_sequence_length=1,
            pre_process=place.is_first_stage,
            post_process=place.is_last_stage,
            share_embeddings_and_output_weights=shape.is_tied,
            position_embedding_type="none",
        )
        self.shape = shape
        self._rows = rows
        self._splits_tokens = config.sequence_parallel
        for index, layer in enumerate(self.decoder.layers):
            if int((index + 1) * recompute) > int(index * recompute):
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

    def setup_embeddings_and_output_layer(self) -> None:
        """Mark the two copies of a tied head under pipeline parallelism; both are loaded, so none is sent."""
        if not self.share_embeddings_and_output_weights or self.pre_process == self.post_process:
            return
        weight = self.shared_embedding_or_output_weight()
        weight.shared_embedding = True
        weight.shared = self.post_process

    def forward(self, inputs: ForwardInputs) -> Tensor:
        """This stage's part of a forward.

        Returns:
            `[2, T]` on the last stage: log-probability and entropy of the scored tokens; hidden states on the others.
        """
        hidden = self.embedding(inputs.input_ids[None], None) if self.pre_process else None
        hidden = self.decoder(
            hidden_states=hidden,
            attention_mask=None,
            packed_seq_params=inputs.tokens,
            padding_mask=inputs.routed,
        )
        if not self.post_process:
            return hidden
        if self._splits_tokens:
            hidden = gather_from_sequence_parallel_region(hidden)
        else:
            hidden = copy_to_tensor_model_parallel_region(hidden)
        weight = self.shared_embedding_or_output_weight() if self.shape.is_tied else self.output_layer.weight
        weight = weight[: len(self._rows)]
        scored = hidden[:, 0].index_select(0, inputs.sources)
        if self.shape.normalizes_head:
            scored = (scored / self._column_norms(weight)).to(scored.dtype)
        scores = score_over_ranks(
            scored,
            weight,
            inputs.targets,
            inputs.temperatures,
            self.pg_collection.tp,
            first_row=self._rows.start,
            entropy_grad=inputs.entropy_grad,
        )
        return torch.stack(scores)

    def _column_norms(self, weight: Tensor) -> Tensor:
        """The length of each column over the whole vocabulary. `[d]`, float32."""
        squares = weight.detach().float().square().sum(0)
        torch.distributed.all_reduce(squares, group=self.pg_collection.tp)
        return squares.sqrt() + HEAD_NORM_EPS


def megatron_config(shape: DecoderShape, place: Place, dtype: torch.dtype) -> TransformerConfig:
    """Megatron-core's configuration. It knows nothing of experts, which are ours."""
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.num_heads,
        num_query_groups=shape.num_kv_heads,
        kv_channels=shape.head_width,
        ffn_hidden_size=shape.feed_forward,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_eps,
        qk_layernorm=shape.qk_norm,
        add_qkv_bias=shape.qkv_bias,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=functional.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        perform_initialization=False,
        tensor_model_parallel_size=place.num_tensor,
        pipeline_model_parallel_size=place.num_pipeline,
        sequence_parallel=place.num_tensor > 1,
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",  # noqa: S106 - variable lengths are refused without
        calculate_per_token_loss=True,  # gradients are sums: the loss is divided by Φ already
        gradient_accumulation_fusion=False,
        bias_activation_fusion=torch.cuda.is_available(),
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
    )


def layer_spec(shape: DecoderShape, place: Place) -> TransformerBlockSubmodules:
    """The layers of a rank's stage: Megatron-core's, with our parts."""
    specs = []
    for layer in layers_of_stage(shape.num_layers, place):
        spec = get_gpt_layer_local_spec(qk_layernorm=shape.qk_norm, normalization="RMSNorm")
        parts = spec.submodules
        parts.input_layernorm = parts.pre_mlp_layernorm = RmsNorm
        attention = parts.self_attention.submodules
        attention.core_attention = PackedAttention
        if shape.qk_norm:
            attention.q_layernorm = attention.k_layernorm = RmsNorm
        if (experts := shape.experts_of(layer)) is not None:
            options = {"shape": experts, "shared": parts.mlp.submodules}
            parts.mlp = ModuleSpec(module=ExpertLayer, params=options)
        specs.append(spec)
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RmsNorm)

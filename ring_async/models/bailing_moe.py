"""BailingMoE v1, the model of Ling-lite and Ring-lite, which transformers does not have.

Owns: the configuration, the modules and the names of their parameters, which are those of the published files. Does not
own reading and writing (`PreTrainedModel`), nor experts as three matrices each (`file_tensors`). Norms, rotary
positions, router and experts are those of transformers, where they compute the same.

What differs from Qwen3-MoE: queries, keys and values are one matrix `[Q heads; K heads; V heads]` without norms; each
layer of experts adds shared experts, a dense feed-forward of `num_shared_experts` experts' width; and with `norm_head`
each column of the head's weight, one hidden dimension over the vocabulary, is divided by its length:

    logits = W / (‖W‖₂ over the vocabulary + 1e-7) · hidden

Here the hidden state is divided instead, which is the same product without a second weight of that size. The length
carries no gradient. Source: inclusionAI/Ling, models/modeling_bailing_moe.py; the file is not executed, and
`auto_map` in a model's `config.json` is left unread.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeMLP, Qwen3MoeTopKRouter

MODEL_TYPE = "bailing_moe"
_HEAD_EPS = 1e-7
_ROPE_THETA = 10_000.0


@strict
class BailingMoeConfig(PreTrainedConfig):
    """The keys of a published `config.json`. Dropouts are not among them: reinforcement learning trains without."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    vocab_size: int = 126_464
    hidden_size: int = 2048
    intermediate_size: int | None = 5632
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int | None = None
    hidden_act: str = "silu"
    use_qkv_bias: bool = False
    use_bias: bool = False
    rms_norm_eps: float = 1e-5
    norm_head: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.006
    max_position_embeddings: int = 16_384
    rope_parameters: dict[str, Any] | None = None
    use_cache: bool = True
    num_experts: int = 64
    num_shared_experts: int | None = 2
    num_experts_per_tok: int = 6
    norm_topk_prob: bool = True
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 0
    pad_token_id: int | None = 126_081
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 126_081

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The keys of `config.json`; the base of the rotary positions also under the name that other readers know."""
        found: dict[str, Any] = super().to_dict()
        return found | {"rope_theta": (self.rope_parameters or {}).get("rope_theta", _ROPE_THETA)}


class BailingMoeAttention(nn.Module):
    """Grouped-query attention with one matrix for queries, keys and values."""

    def __init__(self, config: BailingMoeConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        heads, pairs = config.num_attention_heads, config.num_key_value_heads
        self._heads = (heads, pairs, pairs)
        self.query_key_value = nn.Linear(config.hidden_size, sum(self._heads) * self.head_dim, bias=config.use_qkv_bias)
        self.dense = nn.Linear(heads * self.head_dim, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        shape = hidden_states.shape[:-1]
        split = self.query_key_value(hidden_states).view(*shape, -1, self.head_dim).split(self._heads, dim=-2)
        query, key, value = (part.transpose(1, 2) for part in split)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        projected: Tensor = self.dense(attended.reshape(*shape, -1))
        return projected


class BailingMoeSparseMoeBlock(nn.Module):
    """Experts chosen by the router, and the shared experts that every token visits."""

    def __init__(self, config: BailingMoeConfig) -> None:
        super().__init__()
        self.gate = Qwen3MoeTopKRouter(config)
        self.experts = Qwen3MoeExperts(config)
        width = config.moe_intermediate_size * (config.num_shared_experts or 0)
        self.shared_experts = Qwen3MoeMLP(config, intermediate_size=width) if width else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, chosen = self.gate(flat)
        mixed: Tensor = self.experts(flat, chosen, weights).view_as(hidden_states)
        return mixed if self.shared_experts is None else mixed + self.shared_experts(hidden_states)


class BailingMoeDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: BailingMoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = BailingMoeAttention(config, layer_idx)
        is_dense = layer_idx < config.first_k_dense_replace
        self.mlp = Qwen3MoeMLP(config) if is_dense else BailingMoeSparseMoeBlock(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.attention(self.input_layernorm(hidden_states), **kwargs)
        fed: Tensor = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + fed


class BailingMoePreTrainedModel(PreTrainedModel):
    config_class = BailingMoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "word_embeddings"
    _no_split_modules = ["BailingMoeDecoderLayer"]  # noqa: RUF012 - as the base class declares it
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (Qwen3MoeExperts, Qwen3MoeTopKRouter)):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=self.config.initializer_range)


class BailingMoeModel(BailingMoePreTrainedModel):
    """Embedding, decoder layers and the last norm."""

    def __init__(self, config: BailingMoeConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            [BailingMoeDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(cast(Any, config))  # it reads what both kinds of config have
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        hidden_states = self.word_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            num_seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = num_seen + torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotated = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                position_embeddings=rotated,
                attention_mask=mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class NormalizedHead(nn.Linear):
    """A head whose weight counts with columns of length 1, however long they are."""

    def scaled(self, hidden_states: Tensor) -> Tensor:
        """Hidden states divided by the lengths of the weight's columns: their product with the weight is the logits."""
        length = torch.linalg.vector_norm(self.weight.detach(), dim=0, dtype=torch.float32)
        return (hidden_states / (length + _HEAD_EPS)).to(hidden_states.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Linear
        return super().forward(self.scaled(input))


class BailingMoeForCausalLM(BailingMoePreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: BailingMoeConfig) -> None:
        super().__init__(config)
        self.model = BailingMoeModel(config)
        head = NormalizedHead if config.norm_head else nn.Linear
        self.lm_head = head(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, logits_to_keep: int = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        output = self.model(input_ids, **kwargs)
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)


def register_bailing_moe() -> None:
    """Make the family known to transformers' own loading of models. Once a process."""
    AutoConfig.register(MODEL_TYPE, BailingMoeConfig)
    AutoModelForCausalLM.register(BailingMoeConfig, BailingMoeForCausalLM)
    register_checkpoint_conversion_mapping(MODEL_TYPE, get_checkpoint_conversion_mapping("qwen2_moe"))

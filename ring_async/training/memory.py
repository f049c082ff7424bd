"""How much memory one rank of the learner needs on its GPU: an estimate, from the model's sizes and the configuration.

Owns: the formulas. Does not own the model, nor what a GPU has. Imports transformers inside `model_sizes` alone.

Bytes of a parameter on a rank, with S ranks that shard: fp32 master weight 4/S, gradient 4/S, two AdamW moments 8/S. A
rank alone also holds the bfloat16 weights it computes with (2); sharded ranks gather those of the root (embedding,
head) and of two layers at a time, and one layer's gradient in fp32. Activations a token and layer that is not computed
again: `2 · (4d + 2 (h + 2h_kv)·d_h + 3f)` bytes, with `f` the width of the experts that a token visits and `2d` more
for each, since their inputs and outputs lie sorted by expert. Measured against it (docs/performance.md): 1.7B dense,
16,384 tokens, 67 GiB where the formula says 64; a slice of Ling-lite of 4 layers 61 where it says 61.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ring_async.config.schema import Config

HEAD_CHUNK_BYTES = 8 << 30
"""Logits of one chunk in float32, and what is made of them (`hf.head`)."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The numbers of a model that its memory follows from.

    Attributes:
        num_parameters: all, a tied head counted once.
        num_root_parameters: embedding and head.
        num_layers: decoder layers.
        hidden: d.
        attention_width: (h + 2 h_kv) · d_h.
        feed_forward_width: f, of the layers, or of all experts that a token visits.
        experts_per_token: k; 0 without experts.
        num_expert_parameters: of all experts that tokens choose among.
    """

    num_parameters: int
    num_root_parameters: int
    num_layers: int
    hidden: int
    attention_width: int
    feed_forward_width: int
    experts_per_token: int = 0
    num_expert_parameters: int = 0


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on one GPU, by what they are for."""

    state: float
    """Master weights, gradients, moments."""
    compute_weights: float
    """Weights in bfloat16: those that are computed with, and the KL penalty's reference."""
    activations: float
    head: float

    @property
    def total(self) -> float:
        return self.state + self.compute_weights + self.activations + self.head

    def __str__(self) -> str:
        return (
            f"{self.total / _GIB:.1f} GiB (state {self.state / _GIB:.1f}, weights to compute with "
            f"{self.compute_weights / _GIB:.1f}, activations {self.activations / _GIB:.1f}, head "
            f"{self.head / _GIB:.1f})"
        )


def rank_memory(config: Config, sizes: ModelSizes) -> RankMemory:
    """What one rank of the learner needs, in bfloat16 on a GPU."""
    if config.learner.engine == "megatron":
        return _megatron_memory(config, sizes)
    learner = config.learner
    num_ranks = learner.parallel.num_ranks
    held = sizes.num_parameters / learner.parallel.shard
    # Experts that are shared out over ranks are not gathered: a rank rounds its own.
    spread = sizes.num_expert_parameters if learner.parallel.expert > 1 else 0
    layer = (sizes.num_parameters - sizes.num_root_parameters - spread) / max(1, sizes.num_layers)
    layer += spread / max(1, sizes.num_layers) / learner.parallel.shard
    gathered = 2.0 * sizes.num_root_parameters + (2 * 2 + 4) * layer
    compute = 2.0 * sizes.num_parameters if num_ranks == 1 else gathered
    if config.loss.kl_coefficient > 0:  # ranks hold the reference in float32 slices, its embedding and head gathered
        compute += 2.0 * held if num_ranks == 1 else 4.0 * held + 2.0 * sizes.num_root_parameters
    return RankMemory(
        state=16.0 * held,
        compute_weights=compute,
        activations=_activations(config, sizes),
        head=float(HEAD_CHUNK_BYTES),
    )


def _megatron_memory(config: Config, sizes: ModelSizes) -> RankMemory:
    """A rank's bfloat16 weights and float32 gradients, and its part of master weights and moments, which the ranks
    that hold the same weights share out. Its first stage has as many microbatches in flight as there are stages.
    """
    parallel = config.learner.parallel
    experts = sizes.num_expert_parameters / parallel.expert / parallel.pipeline
    others = (sizes.num_parameters - sizes.num_expert_parameters) / parallel.tensor / parallel.pipeline
    expert_copies = parallel.tensor * parallel.data / parallel.expert
    held = experts + others
    return RankMemory(
        state=4.0 * held + 12.0 * (experts / expert_copies + others / parallel.data),
        compute_weights=2.0 * held * (2 if config.loss.kl_coefficient > 0 else 1),
        activations=_activations(config, sizes) / parallel.tensor,
        head=float(HEAD_CHUNK_BYTES) / parallel.tensor,
    )


def _activations(config: Config, sizes: ModelSizes) -> float:
    """Bytes of one microbatch's activations in all layers."""
    learner = config.learner
    num_tokens = learner.rows_per_microbatch * learner.token_capacity
    full = 2.0 * (4 * sizes.hidden + 2 * sizes.attention_width + 3 * sizes.feed_forward_width)
    full += 2.0 * 2 * sizes.hidden * sizes.experts_per_token
    a_layer = learner.recompute * 2.0 * sizes.hidden + (1 - learner.recompute) * full
    # While one layer is computed again, its activations are all there.
    again = full if learner.recompute else 0.0
    return num_tokens * (sizes.num_layers * a_layer + again)


def model_sizes(folder: Path) -> ModelSizes:
    """The sizes of the model in a Hugging Face directory, from its `config.json` alone.

    Raises:
        ValueError: transformers does not know the model.
    """
    import torch

    from ring_async.models.causal_lm import load_config, make_causal_lm

    config: Any = load_config(folder)
    with torch.device("meta"):
        model: Any = make_causal_lm(config)
    root = {
        id(p): p.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()
    }
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    experts = getattr(config, "num_experts_per_tok", 0) or 0
    width = config.intermediate_size
    if experts:
        expert = getattr(config, "moe_intermediate_size", None) or width
        width = expert * (experts + (getattr(config, "num_shared_experts", 0) or 0))
        width += getattr(config, "shared_expert_intermediate_size", 0) or 0
    return ModelSizes(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_root_parameters=sum(root.values()),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention_width=(heads + 2 * kv_heads) * head_width,
        feed_forward_width=width,
        experts_per_token=experts,
        num_expert_parameters=sum(
            parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name
        ),
    )

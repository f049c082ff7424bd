"""Llama: the names that most families share, and the shape that its `config.json` describes.

Owns: the map of a decoder of this kind. Other families change single parts of it (`qwen2`, `qwen3`, …).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ring_async.errors import ConfigError
from ring_async.training.megatron.names.blocks import (
    Block,
    Mapped,
    columns_of,
    gate_above_up,
    query_groups,
    whole,
)
from ring_async.training.megatron.places import Place
from ring_async.training.megatron.shape import DecoderShape


class LlamaNames:
    """A family's map, for one model.

        names = LlamaNames(AutoConfig.from_pretrained(folder))
        for mapped in names.of_rank(place):
            …

    Args:
        config: transformers' configuration of the model.

    Attributes:
        shape: of the decoder.
    """

    embedding = "model.embed_tokens.weight"
    attention = "self_attn."
    attention_output = "self_attn.o_proj.weight"

    def __init__(self, config: Any) -> None:
        self.shape = self.read(config)

    def read(self, config: Any) -> DecoderShape:
        """The shape.

        Raises:
            ConfigError: the model has a part that is not built here.
        """
        for part in ("attention_bias", "mlp_bias", "use_sliding_window"):
            if getattr(config, part, False):
                raise ConfigError(f"model.path: {config.model_type} with {part} is not built for megatron; use hf")
        return DecoderShape(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocabulary=config.vocab_size,
            feed_forward=config.intermediate_size,
            norm_eps=config.rms_norm_eps,
            is_tied=config.tie_word_embeddings,
        )

    def of_rank(self, place: Place) -> Iterator[Mapped]:
        """The parameters of a rank, in the model's order."""
        shape = self.shape
        rows = shape.rows_of_vocabulary(place.tensor, place.num_tensor)
        table = (shape.vocabulary, shape.hidden)
        if place.is_first_stage:
            yield Mapped("embedding.word_embeddings.weight", "split", (Block(self.embedding, table, rows),))
        for index, layer in enumerate(layers_of_stage(shape.num_layers, place)):
            yield from self.of_layer(f"decoder.layers.{index}.", f"model.layers.{layer}.", layer, place)
        if place.is_last_stage:
            yield Mapped("decoder.final_layernorm.weight", "whole", (whole("model.norm.weight", shape.hidden),))
            if not shape.is_tied:
                yield Mapped("output_layer.weight", "split", (Block("lm_head.weight", table, rows),))
            elif not place.is_first_stage:
                yield Mapped("output_layer.weight", "split", (Block(self.embedding, table, rows),))

    def of_layer(self, own: str, theirs: str, layer: int, place: Place) -> Iterator[Mapped]:
        """The parameters of one layer. Args: the prefixes on both sides, the layer's number, the rank's place."""
        hidden = self.shape.hidden
        yield Mapped(f"{own}input_layernorm.weight", "whole", (whole(f"{theirs}input_layernorm.weight", hidden),))
        yield from self.of_attention(f"{own}self_attention.", theirs, place)
        yield Mapped(
            f"{own}pre_mlp_layernorm.weight", "whole", (whole(f"{theirs}post_attention_layernorm.weight", hidden),)
        )
        yield from self.of_feed_forward(f"{own}mlp.", f"{theirs}mlp.", layer, place)

    def of_attention(self, own: str, theirs: str, place: Place) -> Iterator[Mapped]:
        """The parameters of one attention."""
        shape = self.shape
        heads = (shape.num_heads, shape.num_kv_heads, shape.head_width)
        queries, keys = shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
        for kind, tail in (("weight", (shape.hidden,)), ("bias", ())):
            if kind == "bias" and not shape.qkv_bias:
                continue
            tensors = self.query_key_value(theirs, kind, (queries, keys), tail)
            blocks = tuple(query_groups(tensors, heads, place.tensor, place.num_tensor))
            yield Mapped(f"{own}linear_qkv.{kind}", "split", blocks)
        if shape.qk_norm:
            for one in "qk":
                blocks = (whole(f"{theirs}{self.attention}{one}_norm.weight", shape.head_width),)
                yield Mapped(f"{own}{one}_layernorm.weight", "whole", blocks)
        output = columns_of(f"{theirs}{self.attention_output}", (shape.hidden, queries), place.tensor, place.num_tensor)
        yield Mapped(f"{own}linear_proj.weight", "split", output)

    def query_key_value(
        self, theirs: str, kind: str, rows: tuple[int, int], tail: tuple[int, ...]
    ) -> tuple[tuple[str, tuple[int, ...], int], ...]:
        """The tensors of queries, keys and values: name, shape, first row. `rows`: of the queries, of the keys."""
        return tuple(
            (f"{theirs}{self.attention}{one}_proj.{kind}", (length, *tail), 0)
            for one, length in zip("qkv", (rows[0], rows[1], rows[1]), strict=True)
        )

    def of_feed_forward(self, own: str, theirs: str, layer: int, place: Place) -> Iterator[Mapped]:
        """The parameters of one feed-forward part; here a dense one."""
        del layer
        yield from dense(own, theirs, (self.shape.feed_forward, self.shape.hidden), place)


def dense(own: str, theirs: str, shape: tuple[int, int], place: Place) -> Iterator[Mapped]:
    """A gated feed-forward part `[f, d]`, split over tensor ranks."""
    names = (f"{theirs}gate_proj.weight", f"{theirs}up_proj.weight")
    yield Mapped(f"{own}linear_fc1.weight", "split", gate_above_up(names, shape, place.tensor, place.num_tensor))
    down = columns_of(f"{theirs}down_proj.weight", (shape[1], shape[0]), place.tensor, place.num_tensor)
    yield Mapped(f"{own}linear_fc2.weight", "split", down)


def layers_of_stage(num_layers: int, place: Place) -> range:
    """The layers of a rank's pipeline stage."""
    per_stage = num_layers // place.num_pipeline
    return range(place.pipeline * per_stage, (place.pipeline + 1) * per_stage)

"""The shape of a decoder, whatever its family calls the numbers: what the model, its names and its limits follow from.

Owns: the dataclasses. Does not own how a family's `config.json` is read (`names`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """The experts of a layer.

    Attributes:
        num_experts: E.
        per_token: k.
        width: f of one expert.
        shared_width: f of the experts that every token visits, together; 0: none.
        renormalizes: whether the k chosen probabilities are divided by their sum.
    """

    num_experts: int
    per_token: int
    width: int
    shared_width: int = 0
    renormalizes: bool = True


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A decoder of pre-norm layers with rotary positions and gated feed-forward parts.

    Attributes:
        num_layers, hidden, num_heads, num_kv_heads, head_width, vocabulary: the usual numbers.
        feed_forward: f of a dense layer.
        norm_eps: of every RMS norm.
        is_tied: whether the head is the embedding.
        qkv_bias: whether queries, keys and values have a bias.
        qk_norm: whether queries and keys are normalized per head.
        normalizes_head: whether each column of the head's matrix is divided by its norm over the vocabulary.
        experts: of the layers that have experts; None: no layer has.
        dense_layers: layers without experts, by index, where others have some.
    """

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocabulary: int
    feed_forward: int
    norm_eps: float
    is_tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    normalizes_head: bool = False
    experts: ExpertShape | None = None
    dense_layers: frozenset[int] = frozenset()

    def experts_of(self, layer: int) -> ExpertShape | None:
        """The experts of a layer, counted from 0; None where it is dense."""
        return None if layer in self.dense_layers else self.experts

    def rows_of_vocabulary(self, tensor: int, num_tensor: int) -> range:
        """The rows of embedding and head that a tensor rank holds; the last ranks' may be fewer."""
        rows = -(-self.vocabulary // num_tensor)
        return range(min(self.vocabulary, tensor * rows), min(self.vocabulary, (tensor + 1) * rows))

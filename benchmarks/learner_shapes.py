"""The models, batches and counted work of bench-learner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ring_async.batches import BatchPlan, PackedBatch, PackedSequence, TokenInterval
from ring_async.core.packing import empty_batch, lay_out
from ring_async.types import PolicyVersion

NUM_PROMPT_TOKENS = 64
PEAK_FLOPS = 989e12
"""Of an H100 or H200, dense bfloat16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder. `experts` 0: dense, with `width` its feed-forward width; else `width` is one expert's."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    width: int
    vocabulary: int
    is_tied: bool
    has_qk_norm: bool
    experts: int = 0
    experts_per_token: int = 0

    @property
    def layer_products(self) -> int:
        """Multiplications of one token in one layer's matrices."""
        attention = self.hidden * (2 * self.heads + 2 * self.kv_heads) * self.head_width
        if self.experts:
            return attention + 3 * self.experts_per_token * self.hidden * self.width + self.hidden * self.experts
        return attention + 3 * self.hidden * self.width

    def flops(self, lengths: list[int], num_scored: int) -> float:
        """Of forward and backward: products and causal attention; recomputation, router's softmax and norms are not
        counted.

        Args:
            lengths: tokens of each sequence.
            num_scored: tokens that the head scores.
        """
        tokens, squares = sum(lengths), sum(length * length for length in lengths)
        body = 6.0 * tokens * self.layers * self.layer_products
        head = 6.0 * num_scored * self.vocabulary * self.hidden
        return body + head + 6.0 * self.layers * self.heads * self.head_width * squares

    def config(self) -> Any:
        """The same model in transformers."""
        from transformers import Qwen3Config, Qwen3MoeConfig

        common = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.is_tied,
            "max_position_embeddings": 32768,
        }
        if not self.experts:
            return Qwen3Config(intermediate_size=self.width, **common)
        return Qwen3MoeConfig(
            moe_intermediate_size=self.width,
            intermediate_size=self.width,
            num_experts=self.experts,
            num_experts_per_tok=self.experts_per_token,
            norm_topk_prob=True,
            **common,
        )


DENSE = Shape("dense 1.7B", 28, 2048, 16, 8, 128, 6144, 151_936, True, True)
EXPERTS = Shape("slice of Ling-lite", 4, 2048, 16, 4, 128, 1408, 126_464, False, True, 64, 6)
"""Four of its 28 layers, without shared experts, which transformers' Qwen3-MoE lacks."""
DENSE_4B = Shape("dense 4B", 36, 2560, 32, 8, 128, 9728, 151_936, True, True)
TINY = Shape("tiny", 2, 64, 4, 2, 16, 96, 512, True, True)
TINY_EXPERTS = Shape("tiny with experts", 2, 64, 4, 2, 16, 32, 512, False, True, 8, 2)


def write_model(shape: Shape, folder: Path, device: str) -> Path:
    """Random weights as a Hugging Face directory, in bfloat16; returns the folder."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return folder


def make_lengths(token_budget: int, seed: int, mean: int, longest: int) -> list[int]:
    """Log-normal response lengths that add up to the budget."""
    random = np.random.default_rng(seed)
    lengths: list[int] = []
    while (left := token_budget - sum(lengths)) > 0:
        drawn = int(random.lognormal(np.log(mean) - 0.32, 0.8))
        lengths.append(min(left, max(mean // 32, min(longest, drawn))))
    return lengths


def make_batch(
    shape: Shape, token_budget: int, token_capacity: int, seed: int, *, mean: int = 2000, num_ranks: int = 1
) -> PackedBatch:
    """A batch of exactly `token_budget` loss tokens, laid out by `core.packing`; every response has its own prompt."""
    prompt = min(NUM_PROMPT_TOKENS, mean // 8)
    lengths = make_lengths(token_budget, seed, mean, min(4 * mean, token_capacity - prompt))
    layout = lay_out([prompt + length for length in lengths], token_capacity, num_ranks)
    random = np.random.default_rng(seed)
    sequences = tuple(
        PackedSequence(
            trajectory_id=f"t{i}",
            source="bench",
            row=layout.rows[i],
            offset=layout.offsets[i],
            num_prompt_tokens=prompt,
            num_response_tokens=length,
            interval=TokenInterval(f"t{i}", 0, length),
            reward=float(i % 2),
            advantage=1.0 - 2.0 * (i % 2),
            staleness=i % 3,
        )
        for i, length in enumerate(lengths)
    )
    version = PolicyVersion(0, seed)
    plan = BatchPlan(seed + 1, version, token_budget, layout.num_rows, token_capacity, num_ranks, sequences, 0, 0)
    batch = empty_batch(plan)
    for index, sequence in enumerate(sequences):
        row, start = sequence.row, sequence.offset
        middle = start + prompt
        end = middle + sequence.num_response_tokens
        batch.input_ids[row, start:end] = random.integers(0, shape.vocabulary, end - start)
        batch.position_ids[row, start:end] = np.arange(end - start)
        batch.sequence_ids[row, start:end] = index + 1
        batch.loss_mask[row, middle:end] = 1
        # What a model of random weights says, so that IcePop keeps the tokens.
        batch.behavior_logprobs[row, middle:end] = -np.log(shape.vocabulary)
        batch.advantages[row, middle:end] = sequence.advantage
        batch.token_staleness[row, middle:end] = sequence.staleness
    return batch


def lengths_of(batch: PackedBatch) -> list[int]:
    return [one.num_prompt_tokens + one.num_response_tokens for one in batch.plan.sequences]


def flops_of(shape: Shape, batch: PackedBatch) -> float:
    """Counted work of one batch."""
    return shape.flops(lengths_of(batch), int(batch.loss_mask.sum()))

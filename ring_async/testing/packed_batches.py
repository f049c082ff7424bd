"""Packed batches and tiny models for tests of the learner's side.

Owns: builders alone. The packing here is first fit in the order given, so that a test can lay the same sequences out in
different ways; runs are packed by `core.packing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ring_async.batches import BatchPlan, PackedBatch, PackedSequence, TokenInterval
from ring_async.core.packing import empty_batch
from ring_async.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """One prompt + response. `interval` None: the whole response carries loss. `forced`: response tokens without."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    behavior_logprobs: float | Sequence[float] = -1.0
    advantage: float = 1.0
    reward: float = 1.0
    interval: tuple[int, int] | None = None
    forced: Sequence[int] = ()
    staleness: int | Sequence[int] = 0
    temperature: float = 1.0
    source: str = "sums"


def pack_sequences(
    specs: Sequence[SequenceSpec],
    *,
    token_capacity: int = 64,
    order: Sequence[int] | None = None,
    num_ranks: int = 1,
    token_budget: int | None = None,
    is_final: bool = False,
    plan_number: int = 1,
) -> PackedBatch:
    """Pack sequences first fit, in `order` (default: as given).

    Args:
        specs: the sequences.
        token_capacity: C.
        order: indices into `specs`.
        num_ranks: rows are padded to a multiple of it.
        token_budget: the plan's Φ; None: the loss tokens there are.
        is_final: see `BatchPlan`.
        plan_number: see `BatchPlan`.
    """
    chosen = [specs[index] for index in (range(len(specs)) if order is None else order)]
    places, num_used = _first_fit(chosen, token_capacity)
    loss_tokens = sum(_loss_tokens(spec) for spec in chosen)
    plan = BatchPlan(
        plan_number=plan_number,
        policy_version=PolicyVersion(0, plan_number - 1),
        token_budget=loss_tokens if token_budget is None else token_budget,
        num_rows=-(-num_used // num_ranks) * num_ranks,
        token_capacity=token_capacity,
        num_ranks=num_ranks,
        sequences=tuple(
            _planned(spec, f"trajectory-{specs.index(spec)}", *place)
            for spec, place in zip(chosen, places, strict=True)
        ),
        verifier_epoch=0,
        mixture_epoch=0,
        is_final=is_final,
    )
    batch = empty_batch(plan)
    for index, (spec, (row, offset)) in enumerate(zip(chosen, places, strict=True)):
        _fill(batch, spec, index, row, offset)
    return batch


def _first_fit(specs: Sequence[SequenceSpec], token_capacity: int) -> tuple[list[tuple[int, int]], int]:
    """Row and offset of each sequence, and the number of rows."""
    used: list[int] = []
    places: list[tuple[int, int]] = []
    for spec in specs:
        length = len(spec.prompt_ids) + len(spec.response_ids)
        row = next((index for index, tokens in enumerate(used) if tokens + length <= token_capacity), len(used))
        if row == len(used):
            used.append(0)
        places.append((row, used[row]))
        used[row] += length
    return places, len(used)


def _interval(spec: SequenceSpec) -> tuple[int, int]:
    return spec.interval or (0, len(spec.response_ids))


def _loss_tokens(spec: SequenceSpec) -> int:
    start, end = _interval(spec)
    return end - start - sum(start <= token < end for token in set(spec.forced))


def _planned(spec: SequenceSpec, trajectory_id: str, row: int, offset: int) -> PackedSequence:
    return PackedSequence(
        trajectory_id=trajectory_id,
        source=spec.source,
        row=row,
        offset=offset,
        num_prompt_tokens=len(spec.prompt_ids),
        num_response_tokens=len(spec.response_ids),
        interval=TokenInterval(trajectory_id, *_interval(spec)),
        reward=spec.reward,
        advantage=spec.advantage,
        staleness=int(np.max(spec.staleness)),
    )


def _fill(batch: PackedBatch, spec: SequenceSpec, index: int, row: int, offset: int) -> None:
    """Write one sequence into its row."""
    middle = offset + len(spec.prompt_ids)
    end = middle + len(spec.response_ids)
    start_token, end_token = _interval(spec)
    batch.input_ids[row, offset:end] = [*spec.prompt_ids, *spec.response_ids]
    batch.position_ids[row, offset:end] = np.arange(end - offset)
    batch.sequence_ids[row, offset:end] = index + 1
    batch.token_staleness[row, middle:end] = spec.staleness
    batch.behavior_logprobs[row, middle:end] = spec.behavior_logprobs
    batch.advantages[row, middle:end] = spec.advantage
    batch.loss_mask[row, middle + start_token : middle + end_token] = 1
    batch.loss_mask[row, [middle + token for token in spec.forced]] = 0
    batch.temperatures[row, offset:end] = spec.temperature


def write_tiny_llama(folder: Path, *, vocabulary: int = 13, seed: int = 0, num_key_value_heads: int = 2) -> Path:
    """Write a random two-layer Llama of about 2,500 parameters as a Hugging Face directory; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Larger than the usual start, so that the distributions are far from uniform.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(10)
    model.save_pretrained(folder)
    return folder

"""Forwards and backwards of many microbatches in the order that Megatron-core's schedules give them.

Owns: what a stage does with one microbatch, as the schedules ask for it. Does not own the schedules: without pipeline
ranks one microbatch after another, with them one forward, one backward in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ring_async.training.megatron.inputs import ForwardInputs


def sum_gradients(config: TransformerConfig) -> None:
    """Have schedules sum gradients over ranks at their end, and divide by nothing: losses are divided by Φ."""

    def finalize(models: list[Any], _num_tokens: Tensor | None = None, **options: Any) -> None:
        finalize_model_grads(models, None, **options)

    config.finalize_model_grads_func = finalize


def train(model: Any, inputs: list[ForwardInputs], loss_of: Callable[[ForwardInputs, Tensor], Tensor]) -> None:
    """Add the gradients of all microbatches to the model's buffers, summed over the ranks that share its weights.

    Args:
        model: this rank's, in its gradient buffers.
        inputs: of the microbatches; every rank has as many.
        loss_of: on the last stage, the scalar loss of a microbatch, from its inputs and scores `[2, T]`.
    """
    none = torch.zeros((), dtype=torch.int)

    def step(rest: Iterator[ForwardInputs], stage: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        one = next(rest)
        return stage(one), lambda scores: (loss_of(one, scores), none.to(scores.device), {})

    _run(model, inputs, step)


@torch.no_grad()
def score(model: Any, inputs: list[ForwardInputs]) -> list[Tensor]:
    """The log-probabilities of each microbatch's scored tokens `[T]`, on the last stage; nothing elsewhere."""

    def step(rest: Iterator[ForwardInputs], stage: Any) -> tuple[Tensor, Callable[..., Any]]:
        return stage(next(rest)), lambda scores, **_: scores[0]

    found: list[Tensor] = _run(model, inputs, step, forward_only=True, collect_non_loss_data=True)
    return found


def _run(model: Any, inputs: list[ForwardInputs], step: Callable[..., Any], **options: Any) -> Any:
    # Lengths differ from microbatch to microbatch: stages tell each other (`variable_seq_lengths`).
    return get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(inputs),
        model=[model],
        num_microbatches=len(inputs),
        seq_length=1,
        micro_batch_size=1,
        **{"forward_only": False, **options},
    )

"""The optimizer steps of one batch, for any trainer: minibatches, the finite check, the report on all ranks.

    rows ──minibatches──▶ microbatches ──a trainer's own gradients──▶ clip ─▶ finite? ─▶ step or skip ─▶ StepReport

Owns: what trainers do alike between taking a batch and reporting on it, and the settings that change while they run.
Does not own the model, its forwards and gradients, its weights or its split (`hf`, `megatron`), nor the loss
(`training.objective`).

Invariants:
* the gradient of one optimizer step is that of the sum over its loss tokens divided by Φ/M, however the sequences fall
  into rows and microbatches;
* a non-finite loss or gradient is no step; too many in a row raise, with the weights as they were before the batch;
* with many ranks, every one makes the same calls in the same order.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ring_async.algorithms.corrections import Correction
from ring_async.algorithms.minibatches import assign_minibatches
from ring_async.algorithms.statistics import BatchStatistics, plan_statistics
from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.core.rank_batches import RankShare
from ring_async.errors import DivergedError
from ring_async.training.base import StepReport
from ring_async.training.batch_tensors import BatchTensors, flat_tensor
from ring_async.training.layout import (
    Bool,
    Microbatch,
    check_batch,
    idle_microbatch,
    iterate_microbatches,
    iterate_rows,
    sampled_mask,
)
from ring_async.training.objective import RlObjective, Statistics
from ring_async.training.rank_reports import union
from ring_async.training.ranks import Ranks
from ring_async.training.trained_tokens import trained_tokens
from ring_async.types import Float32

log = logging.getLogger(__name__)


class StepOptimizer(Protocol):
    """What steps need of an optimizer."""

    learning_rate: float
    num_steps: int

    def next_learning_rate(self) -> float: ...

    def zero_grad(self) -> None: ...

    def clip(self) -> Tensor:
        """Scale the gradients to the largest norm; returns the norm before. Scalar."""
        ...

    def step(self) -> float:
        """Take a step; returns the learning rate it was taken at."""
        ...


class BatchSteps(ABC):
    """The part of a `TrainEngine` that takes steps; a trainer adds what it does with its model.

    Args:
        config: the run's.
        ranks: this process and the others that train.
    """

    _optimizer: StepOptimizer
    _num_parameters: int
    """Of the whole model."""
    _may_take_rows: bool = False
    """Whether a forward of whole rows costs as its tokens do, wherever the responses to a prompt lie."""
    _reports_rows: bool = True
    """Whether this rank's statistics are reported: one does so for all that have its rows."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self._device = ranks.device
        self._num_minibatches = config.budget.minibatches_per_batch
        self._max_tokens = config.learner.rows_per_microbatch * config.learner.token_capacity
        correction = Correction.from_section(config.correction)
        self._objective = RlObjective(correction, config.loss, self._num_minibatches)
        self._num_nonfinite = 0

    # -- what a trainer adds

    @abstractmethod
    def _gradients(
        self,
        microbatches: list[Microbatch],
        tensors: BatchTensors,
        minibatch: int,
        token_budget: int,
        statistics: Statistics,
    ) -> Tensor:
        """Add the gradients of this rank's forwards to the optimizer's; returns their loss, detached.

        Summed over ranks, losses and gradients are those of the minibatch.
        """

    @abstractmethod
    def _score_rows(self, batch: PackedBatch, tensors: BatchTensors, scored: Bool) -> Tensor:
        """Log-probabilities at the scored positions of the flattened rows, 0 elsewhere. `[B · C]`, no gradient."""

    @abstractmethod
    def _copied_weights(self) -> Any:
        """The present weights, for `_put_back`."""

    @abstractmethod
    def _put_back(self, weights: Any) -> None:
        """Return to weights copied before."""

    @abstractmethod
    def _ensure_reference(self) -> None:
        """Hold the start weights while a KL penalty is wanted, and only then."""

    def _forwards(self, batch: PackedBatch, scored: Bool, wanted: Bool) -> list[Microbatch]:
        """This rank's forwards."""
        found = list(iterate_microbatches(batch, scored, wanted, self._max_tokens))
        if self._may_take_rows:  # rows may be fuller than what keeps responses to a prompt together
            rows = self._config.learner.rows_per_microbatch
            found = min(found, list(iterate_rows(batch, scored, wanted, rows)), key=_cost)
        return found

    # -- training

    def train_batch(self, batch: PackedBatch, share: RankShare | None = None) -> StepReport:
        """Take M optimizer steps on one batch of Φ loss tokens. See `TrainEngine.train_batch`.

        Raises:
            DivergedError: loss or gradient were non-finite once too often; the weights are unchanged.
            ValueError: the batch is not what its plan says.
        """
        began_s = perf_counter()
        check_batch(batch, share)
        tensors = BatchTensors(batch, self._device)
        statistics = self._objective.statistics()
        first_loss_token = share.first_loss_token if share else 0
        # A batch laid out for many ranks is cut alike if one rank trains it.
        assigned = assign_minibatches(
            batch.loss_mask, self._num_minibatches, batch.plan.num_ranks, first_loss_token=first_loss_token
        )
        needs_full_responses = self._objective.needs_full_responses
        sampled = sampled_mask(batch) if needs_full_responses else batch.loss_mask != 0
        self._first_passes(batch, tensors, sampled)
        before = self._copied_weights() if self._num_minibatches > 1 else None
        grad_norms: list[float] = []
        num_skipped = 0
        learning_rate = self._optimizer.next_learning_rate()
        for minibatch in range(self._num_minibatches):
            is_loss = assigned == minibatch
            microbatches = self._microbatches(batch, sampled if needs_full_responses else is_loss, is_loss)
            if not microbatches:
                continue
            tensors.is_loss = flat_tensor(is_loss, self._device)
            self._optimizer.zero_grad()
            loss = self._gradients(microbatches, tensors, minibatch, batch.plan.token_budget, statistics)
            self._ranks.sum(loss)
            grad_norm = self._optimizer.clip()
            if bool((loss + grad_norm).isfinite()):
                learning_rate = self._step()
                self._num_nonfinite = 0
                grad_norms.append(float(grad_norm))
            else:
                num_skipped += 1
                self._skip(batch, float(loss), float(grad_norm), before)
        report = StepReport(
            loss_tokens=int(batch.loss_mask.sum()),
            num_optimizer_steps=len(grad_norms),
            seconds=perf_counter() - began_s,
            metrics={
                "grad_norm": sum(grad_norms) / len(grad_norms) if grad_norms else None,
                "learning_rate": learning_rate,
                "nonfinite_steps": num_skipped,
            },
        )
        return self._of_all_ranks(report, statistics, batch)

    def _first_passes(self, batch: PackedBatch, tensors: BatchTensors, sampled: Bool) -> None:
        """Score the batch before its first gradient, where the objective needs it."""
        if self._objective.needs_first_pass:
            self._objective.prepare(tensors, self._score_rows(batch, tensors, sampled))

    def _microbatches(self, batch: PackedBatch, scored: Bool, wanted: Bool) -> list[Microbatch]:
        """The forwards of this rank; idle ones behind them while another rank has more, since ranks go together."""
        found = self._forwards(batch, scored, wanted)
        num_idle = self._ranks.maximum(len(found)) - len(found)
        return found + [idle_microbatch()] * num_idle

    def _step(self) -> float:
        """Take an optimizer step; returns its learning rate."""
        return self._optimizer.step()

    def _skip(self, batch: PackedBatch, loss: float, grad_norm: float, before: Any) -> None:
        """Drop a step whose loss or gradient is not finite; raise once there were too many in a row."""
        self._optimizer.zero_grad()
        self._num_nonfinite += 1
        found = (
            f"plan {batch.plan.plan_number}, optimizer step {self._optimizer.num_steps + 1}: loss is {loss:g}, "
            f"gradient norm {grad_norm:g}"
        )
        if self._num_nonfinite <= self._config.learner.max_nonfinite_steps:
            log.warning("%s; the step is skipped, %d in a row", found, self._num_nonfinite)
            return
        if before is not None:
            self._put_back(before)
        raise DivergedError(
            f"{found}; the weights are those of version {batch.plan.policy_version}. Lower learner.learning_rate, or "
            "look at the last batches' rewards"
        )

    def _of_all_ranks(self, report: StepReport, statistics: BatchStatistics, batch: PackedBatch) -> StepReport:
        """The report on the whole batch, on rank 0; the moments of the mismatch, on every rank."""
        mismatch = self._objective.mismatch
        if self._ranks.rank == 0:
            report = dataclasses.replace(report, tokens=trained_tokens(statistics, batch.plan))
        united = union(self._ranks, statistics, batch, reports_rows=self._reports_rows)
        if united is not None:
            everything, plan = united
            mismatch.update(*everything.mismatch_readings())
            work = {"model_flops": 6.0 * self._num_parameters * plan.num_rows * plan.token_capacity}
            metrics = {**everything.summary(), **plan_statistics(plan), **report.metrics, **work}
            report = dataclasses.replace(report, loss_tokens=metrics["loss_tokens"], metrics=metrics)
        if not self._ranks.is_alone:
            state = self._ranks.broadcast(json.dumps(mismatch.state()).encode())
            mismatch.restore(json.loads(state))
        return report

    # -- scoring and settings

    def logprobs(self, batch: PackedBatch) -> Float32:
        """Log-probability of every token under the present weights. See `TrainEngine.logprobs`."""
        scored = batch.sequence_ids != 0
        flat = self._score_rows(batch, BatchTensors(batch, self._device), scored)
        return flat.view(batch.input_ids.shape).cpu().numpy()

    def tune(self, knobs: dict[str, Any]) -> None:
        """Change settings from the next batch on, all or none. See `TrainEngine.tune`."""
        self._config = tuned(self._config, knobs)
        self._objective.correction = Correction.from_section(self._config.correction)
        self._objective.settings = self._config.loss
        self._optimizer.learning_rate = self._config.learner.learning_rate
        self._ensure_reference()

    # -- state beside weights and moments

    def _state(self) -> dict[str, Any]:
        """What a checkpoint keeps that is not a tensor."""
        is_cuda = self._device.type == "cuda"
        return {
            "mismatch": self._objective.mismatch.state(),
            "num_nonfinite": self._num_nonfinite,
            "rng": _bytes_of(torch.get_rng_state()),
            "cuda_rng": _bytes_of(torch.cuda.get_rng_state(self._device)) if is_cuda else None,
        }

    def _restore_state(self, state: dict[str, Any]) -> None:
        """Take over what `_state` gave."""
        self._objective.mismatch.restore(state["mismatch"])
        self._num_nonfinite = int(state.get("num_nonfinite", 0))
        torch.set_rng_state(_tensor_of(state["rng"]))
        if state["cuda_rng"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(_tensor_of(state["cuda_rng"]), self._device)


def _cost(microbatches: list[Microbatch]) -> tuple[int, int]:
    """Tokens, then forwards: the fewer the better."""
    return sum(one.input_ids.size for one in microbatches), len(microbatches)


def _bytes_of(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor_of(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())

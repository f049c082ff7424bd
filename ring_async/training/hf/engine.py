"""The learner's model in transformers: on a CPU, a GPU, or split over ranks of either.

Owns: the optimizer steps of one batch (forward, backward, clip, step) and its metrics. Does not own rows (replay packed
them), the loss (`training.objective`), the split over ranks (`hf.sharding`), or what a checkpoint holds (`hf.saving`).

Invariants:
* the gradient of one optimizer step is that of the sum over its loss tokens divided by Φ/M, however the sequences fall
  into rows and microbatches;
* a non-finite loss or gradient is no step; too many in a row raise, with the weights as they were before the batch;
* with many ranks, every one makes the same calls in the same order;
* a restored engine goes on bit for bit on the same machine.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from time import perf_counter
from typing import Any

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
from ring_async.models.file_tensors import file_tensors
from ring_async.training.base import StepReport, WeightsSnapshot
from ring_async.training.batch_tensors import BatchTensors, flat_tensor
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.optimizer import Optimizer
from ring_async.training.hf.precision import MasterWeights
from ring_async.training.hf.rank_reports import union
from ring_async.training.hf.saving import SavedTrainer, capture, read_state, read_weights
from ring_async.training.hf.settings import device_of, forward_settings, refuse_problems
from ring_async.training.hf.sharding import GatheredWeights, shard_model
from ring_async.training.hf.snapshot import CopiedWeights
from ring_async.training.layout import (
    Bool,
    Microbatch,
    check_batch,
    idle_microbatch,
    iterate_microbatches,
    iterate_rows,
    sampled_mask,
)
from ring_async.training.objective import RlObjective, Score, Statistics
from ring_async.training.ranks import Ranks, alone
from ring_async.training.trained_tokens import trained_tokens
from ring_async.types import Float32

log = logging.getLogger(__name__)


class HfTrainEngine:
    """`TrainEngine` over a transformers causal language model."""

    def __init__(self, config: Config, model_path: Path, ranks: Ranks | None = None) -> None:
        """Load the model.

        Args:
            config: the run's; `model.dtype`, `learner`, `correction`, `loss` and `budget` are read.
            model_path: the start weights: a Hugging Face directory. Also the KL penalty's reference, after a resume
                too.
            ranks: this process and the others that train; None: it trains alone.

        Raises:
            ConfigError: the model can't be loaded, or a setting is not this engine's.
        """
        refuse_problems(config)
        learner = config.learner
        self._ranks = ranks or alone(device_of(config))
        self._device = self._ranks.device
        torch.set_num_threads(learner.num_threads)
        self._model_path = model_path
        self._num_minibatches = config.budget.minibatches_per_batch
        self._max_tokens = learner.rows_per_microbatch * learner.token_capacity
        self._config = config
        self._settings = forward_settings(config, self._device.type)
        correction = Correction.from_section(config.correction)
        self._objective = RlObjective(correction, config.loss, self._num_minibatches)
        self._num_nonfinite = 0
        self._master: MasterWeights | None = None
        self._model = self._load(is_trained=True)
        self._parameters: dict[str, torch.nn.Parameter] = (
            self._master.parameters if self._master else dict(self._model.module.named_parameters())
        )
        self._optimizer = Optimizer(self._parameters.items(), learner)
        self._reference: PackedModel | None = None
        self._ensure_reference()

    def _load(self, *, is_trained: bool) -> PackedModel:
        """The start weights, in the precision and over the ranks that they are computed with.

        One rank: autocast over float32 on a CPU, bfloat16 beside float32 on a GPU. Many: slices in float32.
        """
        ranks, settings = self._ranks, self._settings
        has_master = ranks.is_alone and settings.bfloat16 and self._device.type == "cuda"
        autocast = settings.bfloat16 and ranks.is_alone and not has_master
        # One rank after another: each holds the whole model for a moment, in the memory of one host.
        for rank in range(ranks.num_ranks):
            if rank == ranks.rank:
                device = self._device if ranks.is_alone else torch.device("cpu")
                model = PackedModel.load(self._model_path, device=device, settings=settings, autocast=autocast)
                if not ranks.is_alone:
                    model.device = self._device
                    parallel = self._config.learner.parallel
                    mesh = ranks.mesh(parallel.data, parallel.shard)
                    shard_model(model, mesh, bfloat16=settings.bfloat16)
            ranks.barrier()
        if not is_trained:
            model.module.requires_grad_(False)
            if has_master:
                model.module.to(torch.bfloat16)
        elif has_master:
            self._master = MasterWeights(model.module)
        return model

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
        if self._objective.needs_first_pass:
            self._objective.prepare(tensors, self._score_rows(batch, tensors, sampled))
        before = self._copied_parameters() if self._num_minibatches > 1 else []
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
            loss = torch.zeros((), device=self._device)
            for microbatch in microbatches:
                loss += self._backward(microbatch, tensors, minibatch, batch.plan.token_budget, statistics)
            self._ranks.sum(loss)
            grad_norm = self._optimizer.clip()
            if bool((loss + grad_norm).isfinite()):
                learning_rate = self._step()
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

    def _microbatches(self, batch: PackedBatch, scored: Bool, wanted: Bool) -> list[Microbatch]:
        """The forwards of this rank; idle ones behind them while another rank has more, since ranks go together."""
        found = list(iterate_microbatches(batch, scored, wanted, self._max_tokens))
        if self._settings.padded_tokens:  # every forward costs the same: the fewer the better
            rows = self._config.learner.rows_per_microbatch
            found = min(found, list(iterate_rows(batch, scored, wanted, rows)), key=len)
        num_idle = self._ranks.maximum(len(found)) - len(found)
        return found + [idle_microbatch()] * num_idle

    def _step(self) -> float:
        """Take an optimizer step; returns its learning rate."""
        learning_rate = self._optimizer.step()
        if self._master is not None:
            self._master.refresh()
        self._num_nonfinite = 0
        return learning_rate

    def _skip(self, batch: PackedBatch, loss: float, grad_norm: float, before: list[tuple[Tensor, Tensor]]) -> None:
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
        united = union(self._ranks, statistics, batch)
        if united is not None:
            everything, plan = united
            mismatch.update(*everything.mismatch_readings())
            num_parameters = sum(parameter.numel() for parameter in self._parameters.values())
            work = {"model_flops": 6.0 * num_parameters * plan.num_rows * plan.token_capacity}
            metrics = {**everything.summary(), **plan_statistics(plan), **report.metrics, **work}
            report = dataclasses.replace(report, loss_tokens=metrics["loss_tokens"], metrics=metrics)
        if not self._ranks.is_alone:
            state = self._ranks.broadcast(json.dumps(mismatch.state()).encode())
            mismatch.restore(json.loads(state))
        return report

    def _backward(
        self, microbatch: Microbatch, tensors: BatchTensors, minibatch: int, token_budget: int, statistics: Statistics
    ) -> Tensor:
        """Add one microbatch's gradient; returns its share of the loss, detached."""
        positions = torch.from_numpy(microbatch.positions).to(self._device)
        targets, temperatures = tensors.input_ids[positions], tensors.temperatures[positions]
        policy, entropy = self._model.score(
            microbatch, targets, temperatures, entropy_grad=self._objective.needs_entropy_grad
        )
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference.score(microbatch, targets, temperatures)
        if not positions.numel():
            idle = policy.sum()
            idle.backward()
            return idle.detach()
        loss = self._objective.loss(
            Score(policy, entropy, reference),
            tensors,
            positions,
            torch.from_numpy(microbatch.sequence_ids).to(self._device),
            divisor=token_budget / self._num_minibatches,
            progress=minibatch / self._num_minibatches,
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
        statistics.add(loss.columns)
        return loss.total.detach()

    # -- scoring

    def logprobs(self, batch: PackedBatch) -> Float32:
        """Log-probability of every token under the present weights. See `TrainEngine.logprobs`."""
        scored = batch.sequence_ids != 0
        flat = self._score_rows(batch, BatchTensors(batch, self._device), scored)
        return flat.view(batch.input_ids.shape).cpu().numpy()

    def _score_rows(self, batch: PackedBatch, tensors: BatchTensors, scored: Bool) -> Tensor:
        """Log-probabilities at the scored positions of the flattened rows, 0 elsewhere. `[B · C]`, no gradient."""
        found = torch.zeros(tensors.input_ids.shape, device=self._device)
        with torch.no_grad():
            for microbatch in self._microbatches(batch, scored, scored):
                positions = torch.from_numpy(microbatch.positions).to(self._device)
                targets, temperatures = tensors.input_ids[positions], tensors.temperatures[positions]
                found[positions], _ = self._model.score(microbatch, targets, temperatures)
        return found

    # -- weights and settings

    def snapshot(self) -> WeightsSnapshot:
        """Copy the weights, in `model.dtype`. A tied head is its embedding, and comes once."""
        dtype = torch.bfloat16 if self._settings.bfloat16 else torch.float32
        if not self._ranks.is_alone:
            parameters: dict[str, Tensor] = dict(self._parameters)
            return GatheredWeights(parameters, dtype, self._ranks, self._config.learner.parallel.shard)
        copies = {name: parameter.detach().to(dtype, copy=True) for name, parameter in self._parameters.items()}
        return CopiedWeights(
            {
                part.name: part.of(copy)
                for name, copy in copies.items()
                for part in file_tensors(name, tuple(copy.shape))
            }
        )

    def tune(self, knobs: dict[str, Any]) -> None:
        """Change settings from the next batch on, all or none. See `TrainEngine.tune`."""
        self._config = tuned(self._config, knobs)
        self._objective.correction = Correction.from_section(self._config.correction)
        self._objective.settings = self._config.loss
        self._optimizer.learning_rate = self._config.learner.learning_rate
        self._ensure_reference()

    def _ensure_reference(self) -> None:
        """Hold the start weights while a KL penalty is wanted, and only then."""
        if self._objective.settings.kl_coefficient == 0:
            self._reference = None
        elif self._reference is None:
            self._reference = self._load(is_trained=False)

    def _copied_parameters(self) -> list[tuple[Tensor, Tensor]]:
        return [(parameter, parameter.detach().clone()) for parameter in self._parameters.values()]

    def _put_back(self, weights: list[tuple[Tensor, Tensor]]) -> None:
        """Overwrite weights, each with the values beside it."""
        with torch.no_grad():
            for own, values in weights:
                own.copy_(values)
        if self._master is not None:
            self._master.refresh()

    # -- checkpoints

    def capture(self) -> SavedTrainer:
        """Copy what this rank writes of a checkpoint. See `TrainEngine.capture`."""
        is_cuda = self._device.type == "cuda"
        cuda_rng = torch.cuda.get_rng_state(self._device).numpy().tobytes().hex() if is_cuda else None
        state = {
            "mismatch": self._objective.mismatch.state(),
            "num_nonfinite": self._num_nonfinite,
            "rng": torch.get_rng_state().numpy().tobytes().hex(),
            "cuda_rng": cuda_rng,
        }
        return capture(
            self._ranks,
            self._parameters,
            self._optimizer.state(),
            state=state,
            model=self._model.module,
            tokenizer_folder=self._model_path,
        )

    def restore(self, folder: Path) -> None:
        """Take over weights, optimizer and random state; settings stay those configured.

        Raises:
            StorageError: the folder lacks a part, or is of another model; nothing was changed.
        """
        state = read_state(folder)
        weights = [(own, values.clone()) for own, values in read_weights(folder, self._parameters)]
        self._optimizer.restore(folder)
        self._put_back(weights)
        self._objective.mismatch.restore(state["mismatch"])
        self._num_nonfinite = int(state.get("num_nonfinite", 0))
        torch.set_rng_state(_bytes_tensor(state["rng"]))
        if state["cuda_rng"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(_bytes_tensor(state["cuda_rng"]), self._device)

    def close(self) -> None:
        """Nothing to release beyond memory, which goes with the learner's process."""


def _bytes_tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())

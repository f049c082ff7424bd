"""The learner's model in transformers: one process, a CPU or one GPU.

Owns: the optimizer steps of one batch (forward, backward, clip, step), its metrics, and saving and restoring all of
it. Does not own rows (replay packed them), the loss (`training.objective`) or atomic writing (`training.checkpoint`).

Invariants:
* the gradient of one optimizer step is that of the sum over its loss tokens divided by Φ/M, however the sequences fall
  into rows and microbatches;
* a non-finite loss or gradient raises, and leaves the weights as they were before the batch;
* a restored engine goes on bit for bit on the same machine.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ring_async.algorithms.corrections import Correction
from ring_async.algorithms.minibatches import assign_minibatches
from ring_async.algorithms.statistics import plan_statistics
from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.errors import ConfigError, DivergedError, StorageError
from ring_async.training.base import StepReport
from ring_async.training.batch_tensors import BatchTensors, flat_tensor
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.optimizer import Optimizer
from ring_async.training.hf.snapshot import CopiedWeights
from ring_async.training.layout import Bool, Microbatch, check_batch, iterate_microbatches, sampled_mask
from ring_async.training.objective import RlObjective, Score, Statistics
from ring_async.types import Float32

log = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


class HfTrainEngine:
    """`TrainEngine` over a transformers causal language model."""

    def __init__(self, config: Config, model_path: Path) -> None:
        """Load the model.

        Args:
            config: the run's; `model.dtype`, `learner`, `correction`, `loss` and `budget` are read.
            model_path: the start weights: a Hugging Face directory. Also the KL penalty's reference, after a resume
                too.

        Raises:
            ConfigError: the model can't be loaded, or a setting is not this engine's.
        """
        learner = config.learner
        if learner.num_ranks != 1:
            raise ConfigError(f"learner.num_ranks: {learner.num_ranks}; learner.engine hf trains in 1 process")
        options = dict(learner.engine_options)
        device = str(options.pop("device", "cuda" if torch.cuda.is_available() else "cpu"))
        if options:
            raise ConfigError(f"learner.engine_options: hf knows `device` only, not {', '.join(sorted(options))}")
        torch.set_num_threads(learner.num_threads)
        self._model_path = model_path
        self._dtype = config.model.dtype
        self._device = torch.device(device)
        self._num_minibatches = config.budget.minibatches_per_batch
        self._max_tokens = learner.rows_per_microbatch * learner.token_capacity
        self._config = config
        correction = Correction.from_section(config.correction)
        self._objective = RlObjective(correction, config.loss, self._num_minibatches)
        self._model = PackedModel.load(model_path, device=self._device, dtype=self._dtype)
        self._parameters: dict[str, torch.nn.Parameter] = dict(self._model.module.named_parameters())
        self._optimizer = Optimizer(self._parameters.items(), learner)
        self._reference: PackedModel | None = None
        self._ensure_reference()

    # -- training

    def train_batch(self, batch: PackedBatch) -> StepReport:
        """Take M optimizer steps on one batch of Φ loss tokens. See `TrainEngine.train_batch`.

        Raises:
            DivergedError: loss or gradient became non-finite; the weights are unchanged.
            ValueError: the batch is not what its plan says.
        """
        began_s = perf_counter()
        check_batch(batch)
        tensors = BatchTensors(batch, self._device)
        statistics = self._objective.statistics()
        assigned = assign_minibatches(batch.loss_mask, self._num_minibatches)
        needs_full_responses = self._objective.needs_full_responses
        sampled = sampled_mask(batch) if needs_full_responses else batch.loss_mask != 0
        if self._objective.needs_first_pass:
            self._objective.prepare(tensors, self._score_rows(batch, tensors, sampled))
        before = self._copied_parameters() if self._num_minibatches > 1 else {}
        grad_norms: list[float] = []
        learning_rate = self._optimizer.next_learning_rate()
        for minibatch in range(self._num_minibatches):
            is_loss = assigned == minibatch
            if not is_loss.any():
                continue
            tensors.is_loss = flat_tensor(is_loss, self._device)
            scored = sampled if needs_full_responses else is_loss
            self._optimizer.zero_grad()
            loss = torch.zeros((), device=self._device)
            for microbatch in iterate_microbatches(batch, scored, is_loss, self._max_tokens):
                loss += self._backward(microbatch, tensors, minibatch, batch.plan.token_budget, statistics)
            grad_norm = self._optimizer.clip()
            if not bool((loss + grad_norm).isfinite()):
                self._put_back(before)
                self._optimizer.zero_grad()
                raise DivergedError(
                    f"plan {batch.plan.plan_number}, optimizer step {self._optimizer.num_steps + 1}: loss is "
                    f"{float(loss):g}, gradient norm {float(grad_norm):g}; the weights are those of version "
                    f"{batch.plan.policy_version}. Lower learner.learning_rate, or look at the last batches' rewards"
                )
            learning_rate = self._optimizer.step()
            grad_norms.append(float(grad_norm))
        self._objective.mismatch.update(*statistics.log_behavior_ratios())
        seconds = perf_counter() - began_s
        metrics = {
            **statistics.summary(),
            **plan_statistics(batch.plan),
            "grad_norm": sum(grad_norms) / len(grad_norms),
            "learning_rate": learning_rate,
            "model_flops": 6.0 * sum(one.numel() for one in self._parameters.values()) * batch.input_ids.size,
        }
        return StepReport(
            loss_tokens=int(batch.loss_mask.sum()),
            num_optimizer_steps=len(grad_norms),
            seconds=seconds,
            metrics=metrics,
        )

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
            for microbatch in iterate_microbatches(batch, scored, scored, self._max_tokens):
                positions = torch.from_numpy(microbatch.positions).to(self._device)
                targets, temperatures = tensors.input_ids[positions], tensors.temperatures[positions]
                found[positions], _ = self._model.score(microbatch, targets, temperatures)
        return found

    # -- weights and settings

    def snapshot(self) -> CopiedWeights:
        """Copy the weights, in `model.dtype`. A tied head is its embedding, and comes once."""
        dtype = torch.bfloat16 if self._dtype == "bfloat16" else torch.float32
        return CopiedWeights(
            {name: parameter.detach().to(dtype, copy=True) for name, parameter in self._parameters.items()}
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
            self._reference = PackedModel.load(self._model_path, device=self._device, dtype=self._dtype)
            self._reference.module.requires_grad_(False)

    def _copied_parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def _put_back(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, values in weights.items():
                self._parameters[name].copy_(values)

    # -- checkpoints

    def save(self, folder: Path) -> None:
        """Write model (float32, Hugging Face layout), tokenizer, optimizer, random state. See `TrainEngine.save`."""
        self._model.module.save_pretrained(folder)
        for name in _TOKENIZER_FILES:
            if (self._model_path / name).is_file():
                shutil.copyfile(self._model_path / name, folder / name)
        self._optimizer.save(folder)
        state = {
            "mismatch": self._objective.mismatch.state(),
            "rng": torch.get_rng_state().numpy().tobytes().hex(),
            "cuda_rng": torch.cuda.get_rng_state(self._device).numpy().tobytes().hex()
            if self._device.type == "cuda"
            else None,
        }
        (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take over weights, optimizer and random state; settings stay those configured.

        Raises:
            StorageError: the folder lacks a part, or is of another model.
        """
        try:
            state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            weights = {
                name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()
            }
            if weights.keys() != self._parameters.keys():
                differing = sorted(weights.keys() ^ self._parameters.keys())
                raise StorageError(f"{folder} is of another model: {', '.join(differing[:3])} on one side only")
            for name, values in weights.items():
                if values.shape != self._parameters[name].shape:
                    raise StorageError(f"{folder} is of another model: {name} is {tuple(values.shape)} there")
            self._optimizer.restore(folder)
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot restore from {folder}: {error}") from error
        self._put_back(weights)
        self._objective.mismatch.restore(state["mismatch"])
        torch.set_rng_state(_bytes_tensor(state["rng"]))
        if state["cuda_rng"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(_bytes_tensor(state["cuda_rng"]), self._device)

    def close(self) -> None:
        """Nothing to release beyond memory, which goes with the learner's process."""


def _bytes_tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())

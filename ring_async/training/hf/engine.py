"""The learner's model in transformers: one process, a CPU or one GPU.

Owns: the optimizer steps of one batch (forward, correction, loss, backward, clip, step), its metrics, and saving and
restoring all of it. Does not own rows (replay packed them), the rules (`algorithms`) or atomic writing (`checkpoint`).

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
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ring_async.algorithms.corrections import Correction, TokenBatch, correct, m2po_mask
from ring_async.algorithms.logprobs import bounded_log_ratio
from ring_async.algorithms.losses import batch_loss
from ring_async.algorithms.minibatches import assign_minibatches
from ring_async.algorithms.mismatch import MismatchMoments
from ring_async.algorithms.proximal import loglinear_proximal
from ring_async.algorithms.statistics import BatchStatistics, plan_statistics
from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.errors import ConfigError, DivergedError, StorageError
from ring_async.training.base import StepReport
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.optimizer import Optimizer
from ring_async.training.layout import Bool, Microbatch, check_batch, iterate_microbatches, sampled_mask
from ring_async.types import Float32, PackedBatch

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
        self._correction = Correction.from_section(config.correction)
        self._loss = config.loss
        self._model = PackedModel.load(model_path, device=self._device, dtype=self._dtype)
        self._parameters: dict[str, torch.nn.Parameter] = dict(self._model.module.named_parameters())
        self._optimizer = Optimizer(self._parameters.items(), learner)
        self._mismatch = MismatchMoments()
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
        rows = _Rows(batch, self._device)
        statistics = BatchStatistics()
        assigned = assign_minibatches(batch.loss_mask, self._num_minibatches)
        sampled = sampled_mask(batch) if self._correction.needs_full_responses else batch.loss_mask != 0
        self._prepare(batch, rows, sampled)
        before = self._snapshot() if self._num_minibatches > 1 else {}
        grad_norms: list[float] = []
        learning_rate = self._optimizer.next_learning_rate()
        for minibatch in range(self._num_minibatches):
            is_loss = assigned == minibatch
            if not is_loss.any():
                continue
            rows.is_loss = _flat(is_loss, self._device)
            scored = sampled if self._correction.needs_full_responses else is_loss
            self._optimizer.zero_grad()
            loss = torch.zeros((), device=self._device)
            for microbatch in iterate_microbatches(batch, scored, is_loss, self._max_tokens):
                loss += self._backward(microbatch, rows, minibatch, batch.plan.token_budget, statistics)
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
        self._mismatch.update(*statistics.log_behavior_ratios())
        seconds = perf_counter() - began_s
        metrics = {
            **statistics.summary(),
            **plan_statistics(batch.plan),
            "grad_norm": sum(grad_norms) / len(grad_norms),
            "learning_rate": learning_rate,
        }
        return StepReport(
            loss_tokens=int(batch.loss_mask.sum()),
            num_optimizer_steps=len(grad_norms),
            seconds=seconds,
            metrics=metrics,
        )

    def _prepare(self, batch: PackedBatch, rows: _Rows, sampled: Bool) -> None:
        """Compute what must be known of the whole batch before its first gradient, if anything must.

        With M = 1 the proximal policy is the policy of the very forward that is differentiated: no pass of its own.
        """
        recompute = self._num_minibatches > 1 and self._correction.proximal == "recompute"
        if not recompute and not self._correction.needs_batch_mask:
            return
        proximal = self._score_rows(batch, rows, sampled)
        if recompute:
            rows.proximal_logprobs = proximal
        if self._correction.needs_batch_mask:
            is_loss = _flat(batch.loss_mask != 0, self._device)
            finite = is_loss & proximal.isfinite() & rows.behavior_logprobs.isfinite() & rows.advantages.isfinite()
            log_ratio = torch.where(finite, bounded_log_ratio(proximal, rows.behavior_logprobs), 0.0)
            rows.batch_mask = m2po_mask(log_ratio, rows.advantages, finite, self._correction.tau)

    def _backward(
        self, microbatch: Microbatch, rows: _Rows, minibatch: int, token_budget: int, statistics: BatchStatistics
    ) -> Tensor:
        """Add one microbatch's gradient; returns its share of the loss, detached."""
        positions = torch.from_numpy(microbatch.positions).to(self._device)
        targets, temperatures = rows.input_ids[positions], rows.temperatures[positions]
        policy, entropy = self._model.score(
            microbatch, targets, temperatures, entropy_grad=self._loss.entropy_coefficient > 0
        )
        behavior, staleness = rows.behavior_logprobs[positions], rows.token_staleness[positions]
        if rows.proximal_logprobs is not None:
            proximal = rows.proximal_logprobs[positions]
        elif self._correction.proximal == "loglinear":
            proximal = loglinear_proximal(policy, behavior, staleness, minibatch / self._num_minibatches)
        else:
            proximal = policy.detach()
        mismatch = None
        if self._correction.rule == "icepop" and self._correction.icepop_on == "mismatch":
            mismatch = self._mismatch.estimate(bounded_log_ratio(proximal, behavior), staleness)
        tokens = TokenBatch(
            policy_logprobs=policy,
            proximal_logprobs=proximal,
            behavior_logprobs=behavior,
            advantages=rows.advantages[positions],
            is_loss=rows.is_loss[positions],
            sequence_ids=torch.from_numpy(microbatch.sequence_ids).to(self._device),
            token_staleness=staleness,
            batch_mask=rows.batch_mask[positions] if rows.batch_mask is not None else None,
            mismatch_log_ratio=mismatch,
        )
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference.score(microbatch, targets, temperatures)
        corrected = correct(tokens, self._correction)
        loss = batch_loss(
            tokens, corrected, entropy, reference, settings=self._loss, divisor=token_budget / self._num_minibatches
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
        statistics.add(tokens, corrected, entropy, loss.kl)
        return loss.total.detach()

    # -- scoring

    def logprobs(self, batch: PackedBatch) -> Float32:
        """Log-probability of every token under the present weights. See `TrainEngine.logprobs`."""
        scored = batch.sequence_ids != 0
        flat = self._score_rows(batch, _Rows(batch, self._device), scored)
        return flat.view(batch.input_ids.shape).cpu().numpy()

    def _score_rows(self, batch: PackedBatch, rows: _Rows, scored: Bool) -> Tensor:
        """Log-probabilities at the scored positions of the flattened rows, 0 elsewhere. `[B · C]`, no gradient."""
        found = torch.zeros(rows.input_ids.shape, device=self._device)
        with torch.no_grad():
            for microbatch in iterate_microbatches(batch, scored, scored, self._max_tokens):
                positions = torch.from_numpy(microbatch.positions).to(self._device)
                targets, temperatures = rows.input_ids[positions], rows.temperatures[positions]
                found[positions], _ = self._model.score(microbatch, targets, temperatures)
        return found

    # -- weights and settings

    def named_weights(self) -> Iterator[tuple[str, Any]]:
        """Weights under Hugging Face names, in `model.dtype`. A tied head is its embedding, and comes once."""
        dtype = torch.bfloat16 if self._dtype == "bfloat16" else torch.float32
        for name, parameter in self._parameters.items():
            yield name, parameter.detach().to(dtype)

    def tune(self, knobs: dict[str, Any]) -> None:
        """Change settings from the next batch on, all or none. See `TrainEngine.tune`."""
        self._config = tuned(self._config, knobs)
        self._correction = Correction.from_section(self._config.correction)
        self._loss = self._config.loss
        self._optimizer.learning_rate = self._config.learner.learning_rate
        self._ensure_reference()

    def _ensure_reference(self) -> None:
        """Hold the start weights while a KL penalty is wanted, and only then."""
        if self._loss.kl_coefficient == 0:
            self._reference = None
        elif self._reference is None:
            self._reference = PackedModel.load(self._model_path, device=self._device, dtype=self._dtype)
            self._reference.module.requires_grad_(False)

    def _snapshot(self) -> dict[str, Tensor]:
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
            "mismatch": self._mismatch.state(),
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
        self._mismatch.restore(state["mismatch"])
        torch.set_rng_state(_bytes_tensor(state["rng"]))
        if state["cuda_rng"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(_bytes_tensor(state["cuda_rng"]), self._device)

    def close(self) -> None:
        """Let go of nothing but memory: the process ends with its learner."""


class _Rows:
    """A batch's arrays as flat tensors `[B · C]` on the device."""

    def __init__(self, batch: PackedBatch, device: torch.device) -> None:
        self.input_ids = _flat(batch.input_ids, device).long()
        self.behavior_logprobs = _flat(batch.behavior_logprobs, device)
        self.advantages = _flat(batch.advantages, device)
        self.token_staleness = _flat(batch.token_staleness, device).long()
        self.temperatures = _flat(batch.temperatures, device)
        self.is_loss = _flat(batch.loss_mask != 0, device)
        self.proximal_logprobs: Tensor | None = None
        self.batch_mask: Tensor | None = None


def _flat(values: Any, device: torch.device) -> Tensor:
    # Copied: received arrays are read-only views of frames, which torch can't represent.
    return torch.from_numpy(np.array(values).reshape(-1)).to(device)


def _bytes_tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())

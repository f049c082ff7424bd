"""The learner's model in transformers: on a CPU, a GPU, or split over ranks of either.

Owns: the model, its forwards and gradients. Does not own the steps of a batch (`training.batch_steps`), the loss
(`training.objective`), the split over ranks (`hf.sharding`), or what a checkpoint holds (`hf.saving`).

Invariant: a restored engine goes on bit for bit on the same machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.models.file_tensors import file_tensors
from ring_async.training.base import WeightsSnapshot
from ring_async.training.batch_steps import BatchSteps
from ring_async.training.batch_tensors import BatchTensors, to_device
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.optimizer import Optimizer
from ring_async.training.hf.precision import MasterWeights, round_parameters
from ring_async.training.hf.saving import SavedTrainer, capture, read_state, read_weights
from ring_async.training.hf.settings import device_of, forward_settings, refuse_problems
from ring_async.training.hf.sharding import GatheredWeights, shard_model
from ring_async.training.hf.snapshot import CopiedWeights
from ring_async.training.layout import (
    Bool,
    Microbatch,
)
from ring_async.training.objective import Score, Statistics
from ring_async.training.ranks import Ranks, alone


class HfTrainEngine(BatchSteps):
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
        super().__init__(config, ranks or alone(device_of(config)))
        torch.set_num_threads(config.learner.num_threads)
        self._model_path = model_path
        self._settings = forward_settings(config, self._device.type)
        self._may_take_rows = self._settings.attention == "varlen"
        self._master: MasterWeights | None = None
        self._model = self._load(is_trained=True)
        self._parameters: dict[str, torch.nn.Parameter] = (
            self._master.parameters if self._master else dict(self._model.module.named_parameters())
        )
        self._num_parameters = sum(parameter.numel() for parameter in self._parameters.values())
        self._optimizer: Optimizer = Optimizer(self._parameters.items(), config.learner)
        self._reference: PackedModel | None = None
        self._ensure_reference()

    def _load(self, *, is_trained: bool) -> PackedModel:
        """The start weights, in the precision and over the ranks that they are computed with.

        One rank: autocast over float32 on a CPU, bfloat16 beside float32 on a GPU. Many: slices in float32.
        """
        ranks, parallel = self._ranks, self._config.learner.parallel
        # The reference knows nothing of what the engine chose: it routes by itself.
        settings = self._settings if is_trained else replace(self._settings, replay_routing=False)
        mesh = None if ranks.is_alone else ranks.mesh(parallel.data, parallel.shard)
        has_master = ranks.is_alone and settings.bfloat16 and self._device.type == "cuda"
        autocast = settings.bfloat16 and ranks.is_alone and not has_master
        # On each host one rank after another: each holds the whole model for a moment, in the memory of its host.
        for turn in range(parallel.ranks_per_host):
            if ranks.rank % parallel.ranks_per_host == turn:
                device = self._device if ranks.is_alone else torch.device("cpu")
                model = PackedModel.load(self._model_path, device=device, settings=settings, autocast=autocast)
                if mesh is not None:
                    model.device = self._device
                    shard_model(model, mesh, bfloat16=settings.bfloat16, spreads_experts=parallel.expert > 1)
            ranks.barrier()
        if not is_trained:
            model.module.requires_grad_(False)
            if has_master:
                round_parameters(model.module)
        elif has_master:
            self._master = MasterWeights(model.module)
        return model

    # -- training

    def _gradients(
        self,
        microbatches: list[Microbatch],
        tensors: BatchTensors,
        minibatch: int,
        token_budget: int,
        statistics: Statistics,
    ) -> Tensor:
        loss = torch.zeros((), device=self._device)
        for microbatch in microbatches:
            loss += self._backward(microbatch, tensors, minibatch, token_budget, statistics)
        return loss

    def _step(self) -> float:
        learning_rate = super()._step()
        if self._master is not None:
            self._master.refresh()
        return learning_rate

    def _backward(
        self, microbatch: Microbatch, tensors: BatchTensors, minibatch: int, token_budget: int, statistics: Statistics
    ) -> Tensor:
        """Add one microbatch's gradient; returns its share of the loss, detached."""
        positions = to_device(microbatch.positions, self._device)
        targets, temperatures = tensors.input_ids[positions], tensors.temperatures[positions]
        policy, entropy = self._model.score(
            microbatch, targets, temperatures, tensors.columns, entropy_grad=self._objective.needs_entropy_grad
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
            to_device(microbatch.sequence_ids, self._device),
            divisor=token_budget / self._num_minibatches,
            progress=minibatch / self._num_minibatches,
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
        statistics.add(loss.columns)
        return loss.total.detach()

    # -- scoring

    def _score_rows(self, batch: PackedBatch, tensors: BatchTensors, scored: Bool) -> Tensor:
        """Log-probabilities at the scored positions of the flattened rows, 0 elsewhere. `[B · C]`, no gradient."""
        found = torch.zeros(tensors.input_ids.shape, device=self._device)
        with torch.no_grad():
            for microbatch in self._microbatches(batch, scored, scored):
                positions = to_device(microbatch.positions, self._device)
                targets, temperatures = tensors.input_ids[positions], tensors.temperatures[positions]
                found[positions], _ = self._model.score(microbatch, targets, temperatures, tensors.columns)
        return found

    # -- weights

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

    def _ensure_reference(self) -> None:
        """Hold the start weights while a KL penalty is wanted, and only then."""
        if self._objective.settings.kl_coefficient == 0:
            self._reference = None
        elif self._reference is None:
            self._reference = self._load(is_trained=False)

    def _copied_weights(self) -> list[tuple[Tensor, Tensor]]:
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
        return capture(
            self._ranks,
            self._parameters,
            self._optimizer.state(),
            state=self._state(),
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
        self._restore_state(state)

    def close(self) -> None:
        """Nothing to release beyond memory, which goes with the learner's process."""

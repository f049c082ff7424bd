"""The learner's model split by Megatron-core: matrix products, layers, experts and batches over ranks.

    every rank: its slices of its layers ──forwards and backwards in the schedule's order──▶ sums over ranks ──▶ a step

Owns: this rank's model, its forwards and gradients, the KL penalty's reference. Does not own the steps of a batch
(`training.batch_steps`), the loss (`training.objective`), the optimizer (`optimizer`), what a checkpoint holds
(`saving`), or names (`names`).

Invariants: every rank makes the same calls in the same order; ranks that share rows (tensor and pipeline) are given the
same rows, and one of them reports; a restored engine goes on bit for bit on the same machine, in the same layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from torch import Tensor
from transformers import GenerationConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.models.causal_lm import load_config, make_causal_lm
from ring_async.training.base import WeightsSnapshot
from ring_async.training.batch_steps import BatchSteps
from ring_async.training.batch_tensors import BatchTensors
from ring_async.training.hf.saving import SavedTrainer, read_state
from ring_async.training.hf.settings import device_of
from ring_async.training.hf.tensor_files import TensorFiles
from ring_async.training.layout import Bool, Microbatch
from ring_async.training.megatron import pipeline
from ring_async.training.megatron.groups import give_up_groups, make_groups
from ring_async.training.megatron.inputs import ForwardInputs, InputMaker
from ring_async.training.megatron.names.families import names_of
from ring_async.training.megatron.optimizer import ShardedAdamW
from ring_async.training.megatron.publishing import ExchangedWeights
from ring_async.training.megatron.saving import capture, check_files, read_moments
from ring_async.training.megatron.settings import attention_of, refuse_problems
from ring_async.training.megatron.weights import Exchange, read_parameter
from ring_async.training.objective import Score, Statistics
from ring_async.training.ranks import Ranks, alone


class MegatronTrainEngine(BatchSteps):
    """`TrainEngine` over Megatron-core. Args: as `HfTrainEngine`."""

    def __init__(self, config: Config, model_path: Path, ranks: Ranks | None = None) -> None:
        refuse_problems(config, model_path)
        super().__init__(config, ranks or alone(device_of(config)))
        torch.set_num_threads(config.learner.num_threads)
        self._model_path = model_path
        self._parallel = config.learner.parallel
        self._dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
        self._hf_config: Any = load_config(model_path)
        self._names = names_of(self._hf_config)
        self._place = make_groups(self._ranks, self._parallel)
        self._reports_rows = self._place.leads_rows
        self._mapped = {mapped.name: mapped for mapped in self._names.of_rank(self._place)}
        self._exchange = Exchange(self._names, self._parallel, self._ranks)
        self._num_parameters = sum(torch.Size(shape).numel() for shape in self._exchange.shapes.values())
        attention = attention_of(config, self._device.type)
        self._may_take_rows = attention == "varlen"
        rotary = LlamaRotaryEmbedding(self._hf_config)
        self._inputs = InputMaker(rotary, self._place, device=self._device, dtype=self._dtype, attention=attention)
        self._model = self._trained_model()
        self._optimizer: ShardedAdamW = ShardedAdamW(self._model, self._mapped, self._place, config.learner)
        self._take_weights(model_path)
        self._reference: Any = None
        self._reference_logprobs: Tensor | None = None
        self._ensure_reference()

    def _decoder(self) -> Any:
        from ring_async.training.megatron.model import Decoder

        with self._device:
            decoder = Decoder(
                self._names.shape, self._place, dtype=self._dtype, recompute=self._config.learner.recompute
            )
        for parameter in decoder.parameters():
            parameter.data.zero_()  # rows that pad a vocabulary stay so
        return decoder

    def _trained_model(self) -> DistributedDataParallel:
        decoder = self._decoder()
        pipeline.sum_gradients(decoder.config)
        buffers = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, overlap_grad_reduce=False, use_distributed_optimizer=True
        )
        return DistributedDataParallel(decoder.config, buffers, decoder)

    # -- training

    def _first_passes(self, batch: PackedBatch, tensors: BatchTensors, sampled: Bool) -> None:
        super()._first_passes(batch, tensors, sampled)
        if self._reference is not None:
            self._reference_logprobs = self._scored(self._reference, batch, tensors, sampled)

    def _gradients(
        self,
        microbatches: list[Microbatch],
        tensors: BatchTensors,
        minibatch: int,
        token_budget: int,
        statistics: Statistics,
    ) -> Tensor:
        loss = torch.zeros((), device=self._device)
        reports = self._place.leads_rows

        def loss_of(inputs: ForwardInputs, scores: Tensor) -> Tensor:
            if not inputs.positions.numel():
                return scores.sum()
            reference = self._reference_logprobs
            found = self._objective.loss(
                Score(scores[0], scores[1], None if reference is None else reference[inputs.positions]),
                tensors,
                inputs.positions,
                inputs.sequence_ids,
                divisor=token_budget / self._num_minibatches,
                progress=minibatch / self._num_minibatches,
            )
            if reports:
                statistics.add(found.columns)
                loss.add_(found.total.detach())
            return found.total

        batch_tokens = self._tokens_of_all(microbatches)
        inputs = [
            self._inputs.make(one, tensors, objective=self._objective, batch_tokens=batch_tokens)
            for one in microbatches
        ]
        pipeline.train(self._model, inputs, loss_of)
        return loss

    def _tokens_of_all(self, microbatches: list[Microbatch]) -> int:
        """Tokens of all data ranks' forwards, where routers have losses; else 0, and nobody is asked."""
        settings = self._objective.settings
        if self._names.shape.experts is None or not (settings.balance_coefficient or settings.router_z_coefficient):
            return 0
        own = sum(one.input_ids.size for one in microbatches if one.positions.size)
        total = self._ranks.sum(torch.tensor(float(own), dtype=torch.float64, device=self._device))
        return int(total) // (self._parallel.tensor * self._parallel.pipeline)

    # -- scoring

    def _score_rows(self, batch: PackedBatch, tensors: BatchTensors, scored: Bool) -> Tensor:
        return self._scored(self._model, batch, tensors, scored)

    def _scored(self, model: Any, batch: PackedBatch, tensors: BatchTensors, scored: Bool) -> Tensor:
        inputs = [self._inputs.make(one, tensors) for one in self._microbatches(batch, scored, scored)]
        found = torch.zeros(tensors.input_ids.shape, device=self._device)
        for one, logprobs in zip(inputs, pipeline.score(model, inputs), strict=self._place.is_last_stage):
            found[one.positions] = logprobs
        if self._place.num_pipeline > 1:
            group = parallel_state.get_pipeline_model_parallel_group()
            dist.broadcast(found, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
        return found

    # -- weights

    def snapshot(self) -> WeightsSnapshot:
        """Keep what this rank hands out of a version, on the host. See `TrainEngine.snapshot`."""
        kept = self._exchange.own_parameters()
        parameters = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in self._model.module.named_parameters()
            if name in kept
        }
        return ExchangedWeights(self._exchange, parameters, self._dtype, self._ranks)

    @torch.no_grad()
    def _take_weights(self, folder: Path) -> None:
        """Overwrite the weights with those of a folder."""
        with TensorFiles(folder, "model") as files:
            for name, mapped in self._mapped.items():
                values = torch.zeros(self._model.module.get_parameter(name).shape)
                read_parameter(files, mapped, values)
                self._optimizer.put("master", name, values.to(self._device))
        self._optimizer.refresh()

    def _copied_weights(self) -> list[Tensor]:
        return [part.master.detach().clone() for part in self._optimizer.parts]

    @torch.no_grad()
    def _put_back(self, weights: list[Tensor]) -> None:
        for part, values in zip(self._optimizer.parts, weights, strict=True):
            part.master.copy_(values)
        self._optimizer.refresh()

    @torch.no_grad()
    def _ensure_reference(self) -> None:
        if self._objective.settings.kl_coefficient == 0:
            self._reference = self._reference_logprobs = None
        elif self._reference is None:
            self._reference = self._decoder().requires_grad_(False)
            with TensorFiles(self._model_path, "model") as files:
                for name, parameter in self._reference.named_parameters():
                    read_parameter(files, self._mapped[name], parameter)

    # -- checkpoints

    def capture(self) -> SavedTrainer:
        """Copy what this rank writes of a checkpoint. See `TrainEngine.capture`."""
        return capture(
            self._ranks,
            self._exchange,
            self._optimizer,
            state=self._state(),
            model=self._blueprint(),
            tokenizer_folder=self._model_path,
        )

    def _blueprint(self) -> Any:
        """Transformers' model without weights, whose configuration files a checkpoint gets."""
        with torch.device("meta"):
            model = make_causal_lm(self._hf_config)
        if (self._model_path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(self._model_path, local_files_only=True)
        return model

    def restore(self, folder: Path) -> None:
        """Take over weights and optimizer, whatever layout wrote them; settings stay those configured.

        Raises:
            StorageError: the folder lacks a part, or is of another model; nothing was changed.
        """
        state = read_state(folder)
        check_files(folder, self._exchange.shapes)
        self._take_weights(folder)
        read_moments(folder, self._mapped, self._model.module, self._optimizer)
        self._restore_state(state)

    def close(self) -> None:
        """Give up Megatron-core's groups, which are one set a process."""
        give_up_groups(self._ranks)

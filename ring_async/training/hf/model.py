"""A transformers model that scores flat microbatches.

Owns: loading it from a Hugging Face directory, its forward without padding (`hf.attention`, `hf.varlen`), and the head
at the scored positions alone. Does not own the optimizer (`hf.optimizer`), the loss (`training.objective`), the
precision of the weights (`hf.precision`) or their split over ranks (`hf.sharding`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import logging as transformers_logging

from ring_async.algorithms.logprobs import score_tokens
from ring_async.columns import NO_COLUMNS
from ring_async.errors import ConfigError
from ring_async.models.bailing_moe import NormalizedHead
from ring_async.models.causal_lm import load_causal_lm
from ring_async.training.batch_tensors import to_device
from ring_async.training.hf import attention, varlen
from ring_async.training.hf.attention import AttentionBlocks
from ring_async.training.hf.head import score_in_chunks
from ring_async.training.hf.routing import RouterReplay
from ring_async.training.hf.settings import ForwardSettings
from ring_async.training.hf.varlen import PackedSequences
from ring_async.training.layout import Microbatch
from ring_async.training.routed_experts import COLUMN

_MAX_GRAPHS = 64
_HEAD_FEATURES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """One microbatch on the device. `kind` is what the attention function is given."""

    input_ids: Tensor
    position_ids: Tensor
    kind: dict[str, Any]
    sources: Tensor
    targets: Tensor
    temperatures: Tensor


class _Scorer(torch.nn.Module):
    """Decoder and head as one module, since sharded weights are there only while a module runs."""

    def __init__(self, model: Any, settings: ForwardSettings) -> None:
        super().__init__()
        self.model = model
        self._settings = settings

    def forward(self, inputs: _Inputs, entropy_grad: bool) -> tuple[Tensor, Tensor]:
        hidden = self.model.get_decoder()(
            input_ids=inputs.input_ids[None],
            position_ids=inputs.position_ids[None],
            use_cache=False,
            **inputs.kind,
        ).last_hidden_state[0]
        scored = hidden.index_select(0, inputs.sources)
        head = self.model.get_output_embeddings()
        if isinstance(head, NormalizedHead):
            scored = head.scaled(scored)
        if self._settings.head == "chunked":
            if head.bias is not None:
                raise ConfigError("learner.engine_options.head chunked: the model's head has a bias; use float32")
            weight = head.weight.to(scored.dtype)
            return score_in_chunks(scored, weight, inputs.targets, inputs.temperatures, entropy_grad=entropy_grad)
        logprobs, entropy = score_tokens(
            scored, head.weight, head.bias, inputs.targets, inputs.temperatures, entropy_grad=entropy_grad
        )
        return logprobs.clone(), entropy  # the hooks of sharded weights would be lost on a view


class PackedModel:
    """Scores sampled tokens under one set of weights."""

    def __init__(self, model: Any, *, device: torch.device, settings: ForwardSettings, autocast: bool = False) -> None:
        """Take over a causal language model; it must have been made to attend with our function (`load`)."""
        config: Any = model.config
        for feature in _HEAD_FEATURES:
            if getattr(config, feature, None) not in (None, 1, 1.0):
                raise ConfigError(
                    f"model.path: {type(model).__name__} scales its logits ({feature}), which is unknown here"
                )
        # Dropout would make the learner's distribution another one than the engine's.
        self.module: Any = model.to(device).eval()
        self.device = device
        self.scorer = _Scorer(self.module, settings)
        self._settings = settings
        self._autocast = autocast
        self._routing = RouterReplay(self.module) if settings.replay_routing else None
        self._prepare_layers()

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device, settings: ForwardSettings, autocast: bool = False
    ) -> PackedModel:
        """Load from a Hugging Face directory, into float32.

        Args:
            folder: the directory.
            device: where the weights lie.
            settings: how the model computes.
            autocast: whether float32 weights are cast for each product; weights that are bfloat16 need no cast.

        Raises:
            ConfigError: the folder holds no model that transformers knows.
        """
        if settings.attention == "varlen" and device.type == "cuda":
            varlen.refuse_missing_kernel()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        own = varlen if settings.attention == "varlen" else attention
        try:
            model = load_causal_lm(folder, dtype=torch.float32, attention=own.IMPLEMENTATION)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: cannot load {folder}: {error}") from error
        return cls(model, device=device, settings=settings, autocast=autocast)

    @property
    def layers(self) -> list[torch.nn.Module]:
        """The decoder layers, first to last."""
        return list(self.module.get_decoder().layers)

    def score(
        self,
        microbatch: Microbatch,
        targets: Tensor,
        temperatures: Tensor,
        columns: Mapping[str, Any] = NO_COLUMNS,
        *,
        entropy_grad: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy at the scored tokens.

        Args:
            microbatch: what to compute.
            targets: int64 `[T]`, the scored tokens.
            temperatures: float32 `[T]`.
            columns: of the batch, `[B · C, width]` each; read where experts are replayed.
            entropy_grad: whether the entropy carries a gradient.

        Returns:
            `[T]` and `[T]`, float32, nats.

        Raises:
            ConfigError: experts shall be replayed, and the batch does not say them.
        """
        num_padded = self._settings.num_padded(microbatch.input_ids.size)
        if self._routing is not None:
            origins = np.pad(microbatch.origins, (0, num_padded), constant_values=-1)
            self._routing.use(self._routing.recorded(columns.get(COLUMN), origins).to(self.device))
        inputs = _Inputs(
            self._index(np.pad(microbatch.input_ids, (0, num_padded))),
            self._index(np.pad(microbatch.position_ids, (0, num_padded))),
            self._attended(microbatch, num_padded),
            self._index(microbatch.sources),
            targets,
            temperatures,
        )
        precision = torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with precision:
            scores: tuple[Tensor, Tensor] = self.scorer(inputs, entropy_grad)
        return scores

    def _attended(self, microbatch: Microbatch, num_padded: int) -> dict[str, Any]:
        if self._settings.attention == "varlen":
            return PackedSequences.of(microbatch, self.device, num_padded).arguments()
        gathers = tuple(self._index(gather) for gather in microbatch.gathers)
        # Nobody reads what padding attends to.
        return {"blocks": AttentionBlocks(gathers, self._index(np.pad(microbatch.scatter, (0, num_padded))))}

    def _prepare_layers(self) -> None:
        """Compile the layers, and mark those that are computed again: evenly spread, so that none waits for many."""
        share = self._settings.recompute
        # Graphs differ by kind of layer, with and without gradient, with and without shared prompts; beyond torch's
        # limit of 8 a layer would run uncompiled, and out of memory.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_GRAPHS)
        for index, layer in enumerate(self.layers):
            forward = layer.forward
            if self._settings.compile is not None:
                forward = torch.compile(forward, backend=self._settings.compile)
            if int((index + 1) * share) > int(index * share):
                forward = functools.partial(checkpoint, forward, use_reentrant=False)
            # On the instance, so that the hooks of sharded weights stay outside of graphs and checkpoints.
            layer.forward = forward

    def _index(self, values: Any) -> Tensor:
        return to_device(values, self.device)

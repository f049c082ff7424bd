"""A transformers model that scores flat microbatches.

Owns: loading it from a Hugging Face directory, its forward without padding (`hf.attention`), and the head at the scored
positions alone. Does not own the optimizer (`hf.optimizer`) or the loss (`training.objective`). Parameters are
float32; `dtype` bfloat16 is the precision of the matrix products, under autocast, since learning rates of 1e-6 vanish
in bfloat16 weights.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ring_async.algorithms.logprobs import score_tokens
from ring_async.errors import ConfigError
from ring_async.training.hf.attention import IMPLEMENTATION, AttentionBlocks
from ring_async.training.layout import Microbatch

_HEAD_FEATURES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class PackedModel:
    """Scores sampled tokens under one set of weights."""

    def __init__(self, model: Any, *, device: torch.device, autocast: bool = False) -> None:
        """Take over a causal language model; it must have been made to attend with `attention.IMPLEMENTATION`."""
        config: Any = model.config
        for feature in _HEAD_FEATURES:
            if getattr(config, feature, None) not in (None, 1, 1.0):
                raise ConfigError(
                    f"model.path: {type(model).__name__} scales its logits ({feature}), which is unknown here"
                )
        # Dropout would make the learner's distribution another one than the engine's.
        self.module: Any = model.to(device).eval()
        self.device = device
        self._autocast = autocast
        self._decoder: Any = self.module.get_decoder()

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, dtype: str) -> PackedModel:
        """Load from a Hugging Face directory, into float32.

        Raises:
            ConfigError: the folder holds no model that transformers knows.
        """
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation=IMPLEMENTATION, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: cannot load {folder}: {error}") from error
        return cls(model, device=device, autocast=dtype == "bfloat16")

    def score(
        self, microbatch: Microbatch, targets: Tensor, temperatures: Tensor, *, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy at the scored tokens.

        Args:
            microbatch: what to compute.
            targets: int64 `[T]`, the scored tokens.
            temperatures: float32 `[T]`.
            entropy_grad: whether the entropy carries a gradient.

        Returns:
            `[T]` and `[T]`, float32, nats.
        """
        blocks = AttentionBlocks(
            gathers=tuple(self._index(gather) for gather in microbatch.gathers), scatter=self._index(microbatch.scatter)
        )
        precision = torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with precision:
            hidden = self._decoder(
                input_ids=self._index(microbatch.input_ids)[None],
                position_ids=self._index(microbatch.position_ids)[None],
                use_cache=False,
                blocks=blocks,
            ).last_hidden_state[0]
        head = self.module.get_output_embeddings()
        return score_tokens(
            hidden.index_select(0, self._index(microbatch.sources)),
            head.weight,
            head.bias,
            targets,
            temperatures,
            entropy_grad=entropy_grad,
        )

    def _index(self, values: Any) -> Tensor:
        return torch.from_numpy(values).to(self.device)

"""The start of the loop benchmark: SmolLM2-135M taught how answers look, on programmatic solutions, in minutes.

Owns: how long and how hard. Does not own the solutions, half of them worked out and half guessed
(`ring_async.tiny_model.domains`), nor the loop (`ring_async.tiny_model.sft`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from gpu_loop_fleet import log
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.tiny_model.domains import DOMAINS
from ring_async.tiny_model.sft import SftProgress, SftSettings, train

CALIBRATION_TOKENS = 400_000
SETTINGS = SftSettings(
    num_tokens=CALIBRATION_TOKENS, tokens_per_batch=16_384, matrix_learning_rate=2e-3, learning_rate=3e-4
)
"""A pretrained model's: gentler than from scratch, batches that fill a GPU."""


class Distillation:
    """Example: `distillation = Distillation(base, "cuda:0")`, `distillation.run(target, 75.0)`.

    Two steps, because transformers cannot load two models at once in one process.
    """

    def __init__(self, base: Path, device: str, settings: SftSettings = SETTINGS) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_float32_matmul_precision("high")
        self._settings = settings
        self._model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
        self._tokenizer = load_tokenizer(base)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token_id = 0

    def run(self, target: Path, seconds: float) -> dict[str, float]:
        """Train for about so long, and write the model to `target` in bfloat16; returns what was done.

        A first stretch, at a known number of tokens, says how many fit into the time.
        """
        began_s = time.monotonic()
        first = self._train(self._settings)
        left_s = seconds - (time.monotonic() - began_s)
        num_tokens = int(first.trained_tokens / first.elapsed_s * left_s)
        if num_tokens < self._settings.tokens_per_batch:
            raise SystemExit(f"distil: {seconds:.0f} s are over after {first.trained_tokens:,} tokens; give it more")
        then = self._train(replace(self._settings, num_tokens=num_tokens, first_index=500_000))
        target.mkdir(parents=True, exist_ok=True)
        self._model.to(torch.bfloat16).save_pretrained(target)
        self._tokenizer.save_pretrained(target)
        return {
            "tokens": first.trained_tokens + then.trained_tokens,
            "steps": first.steps + then.steps,
            "loss": round(then.loss, 4),
            "seconds": round(time.monotonic() - began_s, 1),
        }

    def _train(self, settings: SftSettings) -> SftProgress:
        device = self._model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return train(
                self._model, self._tokenizer, DOMAINS, settings, report=lambda progress: log(f"distil: {progress}")
            )

"""Held-out accuracy of several models of one shape, with one engine: started once, each model's weights swapped in.

Owns: the engine, the problems, the intervals. Does not own how problems are answered and judged (`actors.evaluation`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from ring_async.actors.evaluation import evaluate
from ring_async.actors.held_out import held_out_problems, share_problems
from ring_async.config.schema import Config
from ring_async.data.prompt_room import PromptRoom
from ring_async.data.registry import make_source
from ring_async.engines.base import RolloutEngine
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.types import PolicyVersion
from ring_async.verifiers.registry import make_verifier

MODES = {"T = 1": 1.0, "greedy": 0.0}
NUM_BOOTSTRAP = 10_000

Scores = Mapping[str, list[float]]
"""Solved (1) or not (0), by mode, problem by problem."""


class Exam:
    """Example: `await exam.start()`, `scores = await exam.take(folder)`, `await exam.close()`.

    Args:
        config: whose sources, verifiers and longest response are used.
        engine: holds no weights yet.
        folder: of a model of this shape, for the tokenizer.
        num_problems: spread over the sources.
        dtype, device: of the weights that are swapped in.
    """

    def __init__(
        self, config: Config, engine: RolloutEngine, folder: Path, num_problems: int, *, dtype: Any, device: str
    ) -> None:
        self._config, self._engine, self._folder = config, engine, folder
        self._num_problems = num_problems
        self._dtype, self._device = dtype, device
        self._number = 0

    async def start(self) -> None:
        await self._engine.start()
        config = self._config
        names = [name for name, weight in config.mixture.items() if weight > 0]
        self._verifiers = {
            name: await asyncio.to_thread(
                make_verifier, config.sources[name].verifier, config.verifiers[config.sources[name].verifier]
            )
            for name in names
        }
        shares = share_problems(self._num_problems, names)
        refusal = PromptRoom(self._folder, config.rollout.max_tokens).refusal
        self._problems = [
            problem
            for name in names
            for problem in held_out_problems(
                name, make_source(name, config.sources[name]), shares[name], refusal=refusal
            )
        ]
        self._tokenizer = load_tokenizer(self._folder)

    async def take(self, folder: Path) -> dict[str, list[float]]:
        """Answers of the model in a folder, judged."""
        self._number += 1
        tensors = {
            name: tensor.to(self._device, self._dtype)
            for path in sorted(folder.glob("model*.safetensors"))
            for name, tensor in load_file(path).items()
        }
        await self._engine.swap_weights(PolicyVersion(0, self._number), tensors, "reprefill")
        evaluation = await evaluate(
            self._engine,
            self._tokenizer,
            self._problems,
            self._verifiers,
            max_tokens=self._config.rollout.max_tokens,
            seed=1,
            temperatures=tuple(MODES.values()),
        )
        return {
            mode: [float(one.is_solved) for one in evaluation.select(temperature)]
            for mode, temperature in MODES.items()
        }

    async def close(self) -> None:
        for verifier in getattr(self, "_verifiers", {}).values():
            verifier.close()
        await self._engine.close()


def accuracy(scores: Scores) -> dict[str, list[float]]:
    """Share of problems solved with its 95 % interval (Wilson's), by mode: [share, low, high]."""
    return {mode: [round(value, 4) for value in _wilson(values)] for mode, values in scores.items()}


def _wilson(values: list[float]) -> tuple[float, float, float]:
    count, share, z = len(values), float(np.mean(values)), 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return share, middle - half, middle + half


def gain(start: list[float], after: list[float]) -> list[float]:
    """Mean gain on the same problems with its 95 % interval from resampling them: [mean, low, high]."""
    difference = np.asarray(after) - np.asarray(start)
    rng = np.random.default_rng(0)
    means = difference[rng.integers(difference.size, size=(NUM_BOOTSTRAP, difference.size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return [round(float(value), 4) for value in (difference.mean(), low, high)]

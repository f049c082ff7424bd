"""What the learner needs of a model trainer: transformers on one device today, Megatron-core on many.

Owns: the protocol. A train engine holds model and optimizer, takes packed batches of exactly Φ loss tokens, and hands
out its weights under Hugging Face names. It knows nothing of the network, the buffer, or other actors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ring_async.config.schema import Config
from ring_async.types import Float32, PackedBatch


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one batch did. `metrics` holds the learner's share of a `metrics.jsonl` line (`algorithms.losses`)."""

    loss_tokens: int
    num_optimizer_steps: int
    seconds: float
    metrics: dict[str, Any] = field(default_factory=dict)


class TrainEngine(Protocol):
    """Trains on packed batches. Called from one thread, never concurrently."""

    def train_batch(self, batch: PackedBatch) -> StepReport:
        """Take `minibatches_per_batch` optimizer steps on one batch.

        Raises:
            DivergedError: loss or gradient became non-finite; the weights are unchanged.
        """
        ...

    def logprobs(self, batch: PackedBatch) -> Float32:
        """Log-probability of every token of the rows under the present weights: float32 `[B, C]`, 0 for padding
        and for the first token of a sequence, under each sequence's temperature. No gradient.
        """
        ...

    def named_weights(self) -> Iterator[tuple[str, Any]]:
        """Weights under Hugging Face names, as tensors that stay unchanged until the next `train_batch`."""
        ...

    def tune(self, knobs: dict[str, Any]) -> None:
        """Change runtime-tunable settings (`learner.learning_rate`, `correction.*`, `loss.*`) from the next batch on.

        Raises:
            ConfigError: a knob that is unknown or not tunable.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write model (Hugging Face layout), optimizer, scheduler and RNG. The caller makes the write atomic."""
        ...

    def restore(self, folder: Path) -> None: ...

    def close(self) -> None: ...


class TrainerEntry(Protocol):
    """How the registry knows one trainer. An entry imports the trainer itself inside `make`."""

    def make(self, config: Config) -> TrainEngine:
        """Load the model from `model.path` and build the trainer. Blocks."""
        ...

    def check(self, config: Config) -> list[str]:
        """Why the trainer cannot work here: reasons, each with what to do (`config.registry.Entry`)."""
        ...

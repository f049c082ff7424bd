"""The protocols of model trainers: transformers, and Megatron-core for what must be split further.

Owns: the protocols. A train engine holds model and optimizer, takes packed batches of exactly Φ loss tokens, and hands
out snapshots of its weights under Hugging Face names, a tensor at a time. It knows nothing of the network, the buffer,
or other actors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.core.rank_batches import RankShare
from ring_async.core.weights.plan import TensorShape
from ring_async.records.trained_tokens import TrainedTokens
from ring_async.types import Float32


@dataclass(frozen=True, slots=True)
class StepReport:
    """The report on one trained batch. `metrics` holds the learner's part of a `metrics.jsonl` line
    (`algorithms.statistics`); `tokens`, what became of the tokens of some responses, for people who read samples.
    """

    loss_tokens: int
    num_optimizer_steps: int
    seconds: float
    metrics: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[TrainedTokens, ...] = ()


class WeightsSnapshot(Protocol):
    """The weights of one version as they were when the snapshot was taken, under Hugging Face names.

    Taken on the thread that trains, read on the one that publishes while the next step runs:

        snapshot = engine.snapshot()
        try:
            sender.publish(version, snapshot.tensors(), snapshot.shapes)
        finally:
            snapshot.close()

    An engine on many ranks keeps each rank's shards and gathers a tensor when it is asked for, so that no rank ever
    holds the whole model.
    """

    @property
    def shapes(self) -> tuple[TensorShape, ...]:
        """The names, dtypes and shapes of the tensors, in order; the same for every version of a run."""
        ...

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Names and tensors, in the order of `shapes`; each is gathered, or released, when it is handed out. Iterate
        once.

        A tensor belongs to whoever it was handed to and never changes, after `close` too.
        """
        ...

    def serve(self) -> None:
        """On ranks other than 0, which read nothing: give rank 0 what it gathers, until it has closed its snapshot."""
        ...

    def close(self) -> None:
        """Free the tensors that were not handed out. Idempotent."""
        ...


class SavedState(Protocol):
    """What one rank writes of a checkpoint, in memory that training does not touch."""

    def write(self, folder: Path) -> None:
        """Write this rank's files: model (Hugging Face layout), optimizer, scheduler and RNG. From any thread."""
        ...


class TrainEngine(Protocol):
    """Trains on packed batches. Called from one thread, never concurrently."""

    def train_batch(self, batch: PackedBatch, share: RankShare | None = None) -> StepReport:
        """Take `minibatches_per_batch` optimizer steps on one batch.

        A step whose loss or gradient is not finite is skipped and counted (`nonfinite_steps`).

        Args:
            batch: the batch; with many ranks, the rows of this one.
            share: with many ranks, this one's share of the batch's loss tokens. The report of rank 0 is of them all.

        Raises:
            DivergedError: more steps in a row were not finite than `learner.max_nonfinite_steps`; the weights are
                unchanged.
        """
        ...

    def logprobs(self, batch: PackedBatch) -> Float32:
        """Log-probability of every token of the rows under the present weights: float32 `[B, C]`, 0 for padding
        and for the first token of a sequence, under each sequence's temperature. No gradient.
        """
        ...

    def snapshot(self) -> WeightsSnapshot:
        """Keep the present weights for publishing, whatever `train_batch` does next. The caller closes it."""
        ...

    def tune(self, knobs: dict[str, Any]) -> None:
        """Change runtime-tunable settings (`learner.learning_rate`, `correction.*`, `loss.*`) from the next batch on.

        Raises:
            ConfigError: a knob that is unknown or not tunable.
        """
        ...

    def capture(self) -> SavedState:
        """Take model, optimizer, scheduler and RNG as they are now, for a checkpoint written while training goes on."""
        ...

    def restore(self, folder: Path) -> None: ...

    def close(self) -> None: ...


class TrainerEntry(Protocol):
    """How the registry knows one trainer. An entry imports the trainer itself inside `make`."""

    def make(self, config: Config, rank: int, store: str) -> TrainEngine:
        """Load the model from `model.path` and build one rank of the trainer. Arguments as for `make_trainer`."""
        ...

    def check(self, config: Config) -> list[str]:
        """The reasons why the trainer cannot work here, each with a remedy (`config.registry.Entry`)."""
        ...

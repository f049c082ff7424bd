"""A train engine and a weight channel without a model: steps take written-down time, versions travel by name alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ring_async.batches import PackedBatch
from ring_async.core.rank_batches import RankShare
from ring_async.core.weights.plan import TensorShape
from ring_async.errors import DivergedError
from ring_async.training.base import StepReport, WeightsSnapshot
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights, StageReport
from ring_async.types import Float32, PolicyVersion


class ScriptedTrainEngine:
    """A `TrainEngine` that counts.

    Args:
        step_s: what one batch is said to cost (`StepReport.seconds`); it passes no time itself.
        diverges_at: the batch, counted from 1, that ends in `DivergedError`; 0: none.
    """

    def __init__(self, *, step_s: float = 0.0, diverges_at: int = 0) -> None:
        self.batches: list[PackedBatch] = []
        self.knobs: dict[str, Any] = {}
        self._step_s = step_s
        self._diverges_at = diverges_at
        self._num_trained = 0

    def train_batch(self, batch: PackedBatch, share: RankShare | None = None) -> StepReport:
        del share
        self.batches.append(batch)
        if len(self.batches) == self._diverges_at:
            raise DivergedError("scripted: the loss is not finite")
        self._num_trained += 1
        sequences = batch.plan.sequences
        metrics = {
            "reward_mean": float(np.mean([sequence.reward for sequence in sequences])),
            "staleness_max": max(sequence.staleness for sequence in sequences),
        }
        return StepReport(int(batch.loss_mask.sum()), 1, self._step_s, metrics)

    def logprobs(self, batch: PackedBatch) -> Float32:
        return np.zeros_like(batch.behavior_logprobs)

    def snapshot(self) -> WeightsSnapshot:
        return NoWeights()

    def tune(self, knobs: dict[str, Any]) -> None:
        self.knobs |= knobs

    def capture(self) -> ScriptedState:
        return ScriptedState(self._num_trained)

    def restore(self, folder: Path) -> None:
        self._num_trained = json.loads((folder / "scripted.json").read_text())["num_trained"]

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class ScriptedState:
    """A `SavedState`: how many batches were trained."""

    num_trained: int

    def write(self, folder: Path) -> None:
        (folder / "scripted.json").write_text(json.dumps({"num_trained": self.num_trained}))


class NoWeights:
    """A `WeightsSnapshot` of a model without tensors."""

    shapes: tuple[TensorShape, ...] = ()

    def tensors(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def serve(self) -> None:
        """There is no other rank."""

    def close(self) -> None:
        """Nothing to release."""


class NamedWeights:
    """Both ends of a weight channel that carries versions and no tensors.

    Args:
        stage_s: how long staging blocks its thread.
    """

    def __init__(self, *, stage_s: float = 0.0) -> None:
        self.published: list[PolicyVersion] = []
        self._stage_s = stage_s

    def publish(
        self,
        policy_version: PolicyVersion,
        tensors: Iterable[tuple[str, Any]],
        shapes: Sequence[TensorShape] | None = None,
    ) -> WeightsAnnouncement:
        del tensors, shapes
        self.published.append(policy_version)
        return WeightsAnnouncement(policy_version, "named", {})

    def retire(self, policy_version: PolicyVersion) -> None:
        """Names take no room."""

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        if self._stage_s:
            time.sleep(self._stage_s)
        return StagedWeights(announcement.policy_version, {}, StageReport(0, 0, 0.0))

    def close(self) -> None:
        """Nothing to release."""

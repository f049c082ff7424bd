"""Weight channels: they bring a published version of the policy to every engine, whole or not at all.

Owns: the protocols, and what a receiver hands to its engine (`StagedWeights`). The channels are `shm` (one host), `zmq`
(any host), `nccl` (GPUs); `registry` chooses. Does not own: when versions are published
(the learner), who is told of them (the controller), and putting them in force (the engine, which rebinds or copies).

    learner: sender.publish(v, tensors) → announcement ─ control channel ─▶ rollout: receiver.stage(announcement)
             …step v+1 goes on…                                             …generation goes on…
                                                                            engine.swap_weights(v, staged.tensors)

Invariants: `stage` verifies the checksum of every bucket before it returns, so a version whose sender died half-way, or
that was retired while it was read, is an error and never in force. What is published is a copy: the caller may change
its tensors once `publish` has returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch

from ring_async.config.schema import Config
from ring_async.core.weights.plan import ITEM_BYTES, TensorShape
from ring_async.transport.curve import CurveKeys
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.types import PolicyVersion

Tensors = Iterable[tuple[str, torch.Tensor]]
"""Hugging Face names and tensors on any device; iterated once, a tensor at a time, when its first bucket is filled."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """What staging one version cost.

    Attributes:
        num_bytes: of the version.
        wire_bytes: moved to get it; 0 where it was mapped.
        stage_s: from the call of `stage` to the last checksum.
        delta_ratio: `wire_bytes / num_bytes` when only changes were fetched, else None.
    """

    num_bytes: int
    wire_bytes: int
    stage_s: float
    delta_ratio: float | None = None


class StagedWeights:
    """A whole, verified version in this process, ready for the engine.

    `tensors` are views into one buffer, which lives as long as any of them: an engine that rebinds its parameters to
    them needs nothing else. Treat them as read-only.
    """

    def __init__(self, policy_version: PolicyVersion, tensors: Mapping[str, torch.Tensor], report: StageReport) -> None:
        self.policy_version = policy_version
        self.tensors = tensors
        self.report = report

    def close(self) -> None:
        """Drop the references to the tensors; memory is freed with the last one. Idempotent."""
        self.tensors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WeightSender(Protocol):
    """The learner's end. Calls are safe from any thread, one at a time."""

    def publish(
        self, policy_version: PolicyVersion, tensors: Tensors, shapes: Sequence[TensorShape] | None = None
    ) -> WeightsAnnouncement:
        """Copy a version out and make it fetchable. The oldest versions beyond the number retained are retired.

        Args:
            policy_version: its name.
            tensors: the version. The caller may change them once this returns.
            shapes: what `tensors` will hand out, in order. With it a tensor is asked for when it is wanted and dropped
                once it is copied, so that a generator never needs the whole model at once (`nccl` broadcasts from
                where tensors lie, and holds all of them). None: all tensors are there, and are looked at first.

        Raises:
            WeightsError: the version was published before, a tensor cannot be sent or is not the one that `shapes`
                promised, or memory is short.
        """
        ...

    def retire(self, policy_version: PolicyVersion) -> None:
        """Stop offering a version and free its memory; receivers that staged it keep it. Ignores unknown versions."""
        ...

    def close(self) -> None:
        """Retire everything. Idempotent."""
        ...


class WeightReceiver(Protocol):
    """A rollout's end."""

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        """Bring an announced version into this process and verify it. Blocks; meant for a worker thread.

        Raises:
            WeightsError: the version is gone, incomplete or corrupt, or the deadline passed. A later announcement may
                be tried at once.
        """
        ...

    def close(self) -> None:
        """Close the connections. Staged weights stay usable. Idempotent."""
        ...


class ChannelEntry(Protocol):
    """How the registry knows one channel. An entry imports the channel itself inside its makers."""

    def make_sender(self, config: Config, socket_dir: Path, actor_id: str, keys: CurveKeys | None) -> WeightSender:
        """The learner's end. Arguments as for `registry.make_weight_sender`."""
        ...

    def make_receiver(self, config: Config, actor_id: str, keys: CurveKeys | None) -> WeightReceiver:
        """A rollout's end."""
        ...

    def check(self, config: Config) -> list[str]:
        """The reasons why the channel cannot work here, each with a remedy (`config.registry.Entry`)."""
        ...

    def check_host(self, config: Config) -> list[str]:
        """What this host lacks to send or receive weights, each with a remedy; asked where learner and rollouts run."""
        ...


assert all(hasattr(torch, name) for name in ITEM_BYTES)

"""Weight channels: how a published version of the policy reaches every engine, whole or not at all.

Owns: the two protocols, what a receiver hands to its engine (`StagedWeights`), and the choice of channel. The channels
are `weights_shm` (one host), `weights_zmq` (any host), `weights_nccl` (GPUs). Does not own: when versions are published
(the learner), who is told of them (the controller), and putting them in force (the engine, which rebinds or copies).

    learner: sender.publish(v, tensors) → announcement ─ control channel ─▶ rollout: receiver.stage(announcement)
             …step v+1 goes on…                                             …generation goes on…
                                                                            engine.swap_weights(v, staged.tensors)

Invariants: `stage` verifies the checksum of every bucket before it returns, so a version whose sender died half-way, or
that was retired while it was read, is an error and never in force. What is published is a copy: the caller may change
its tensors once `publish` has returned.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch

from ring_async.config.schema import Config
from ring_async.core.weight_plan import ITEM_BYTES, Layout, Manifest, plan_layout
from ring_async.errors import WeightsError
from ring_async.transport.messages import WeightsAnnouncement
from ring_async.types import PolicyVersion

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

NCCL_MIN_BUCKET_BYTES = 512 << 20
"""NCCL needs large messages: between two H200s 32 MiB reach 88 % of the speed of 512 MiB, 128 MiB 97 %."""

Tensors = Iterable[tuple[str, torch.Tensor]]
"""Names (Hugging Face's) and tensors on any device. Held until `publish` returns."""


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
    """A whole, verified version in this process, ready to be put in force.

    `tensors` are views into one buffer, which lives as long as any of them: an engine that rebinds its parameters to
    them needs nothing else. Treat them as read-only.
    """

    def __init__(self, policy_version: PolicyVersion, tensors: Mapping[str, torch.Tensor], report: StageReport) -> None:
        self.policy_version = policy_version
        self.tensors = tensors
        self.report = report

    def close(self) -> None:
        """Let go of the tensors. Memory is freed once nobody else holds one. Idempotent."""
        self.tensors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WeightSender(Protocol):
    """The learner's end. Calls are safe from any thread, one at a time."""

    def publish(self, policy_version: PolicyVersion, tensors: Tensors) -> WeightsAnnouncement:
        """Copy a version out and make it fetchable. The oldest versions beyond the number retained are retired.

        Raises:
            WeightsError: the version was published before, a tensor cannot be sent, or memory is short.
        """
        ...

    def retire(self, policy_version: PolicyVersion) -> None:
        """Stop offering a version and free its memory; who has staged it keeps it. Unknown versions are ignored."""
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
        """Let go of connections. Staged weights stay usable. Idempotent."""
        ...


def make_weight_sender(
    config: Config, *, socket_dir: Path, actor_id: str, keys: CurveKeys | None = None
) -> WeightSender:
    """The sending end of the configured channel.

    Args:
        config: of the run.
        socket_dir: folder (mode 0700) for `ipc://` sockets, where the channel needs one.
        actor_id: names the sockets.
        keys: of the run, for CURVE on TCP.

    Raises:
        WeightsError: the channel cannot work here, e.g. NCCL without CuPy.
    """
    weights = config.weights
    match weights.channel:
        case "shm":
            from ring_async.transport.weights_shm import ShmWeightSender

            return ShmWeightSender(bucket_bytes=weights.bucket_bytes, retain_versions=weights.retain_versions)
        case "zmq":
            from ring_async.transport.weights_zmq import ZmqWeightSender

            return ZmqWeightSender(
                f"weights-{actor_id}",
                transport=config.transport,
                socket_dir=socket_dir,
                keys=keys,
                bucket_bytes=weights.bucket_bytes,
                retain_versions=weights.retain_versions,
            )
        case "nccl":
            from ring_async.transport.weights_device import CudaDevice
            from ring_async.transport.weights_nccl import NcclWeightSender

            return NcclWeightSender(
                f"weights-{actor_id}",
                device=CudaDevice(),
                transport=config.transport,
                socket_dir=socket_dir,
                keys=keys,
                bucket_bytes=max(weights.bucket_bytes, NCCL_MIN_BUCKET_BYTES),
                is_retaining=weights.nccl_retain,
                deadline_s=weights.deadline_s,
            )


def make_weight_receiver(
    config: Config, *, socket_dir: Path, actor_id: str, keys: CurveKeys | None = None
) -> WeightReceiver:
    """The receiving end of the configured channel. Arguments as for `make_weight_sender`."""
    weights = config.weights
    match weights.channel:
        case "shm":
            from ring_async.transport.weights_shm import ShmWeightReceiver

            return ShmWeightReceiver()
        case "zmq":
            from ring_async.transport.weights_zmq import ZmqWeightReceiver

            return ZmqWeightReceiver(keys=keys, deadline_s=weights.deadline_s)
        case "nccl":
            from ring_async.transport.weights_device import CudaDevice
            from ring_async.transport.weights_nccl_receiver import NcclWeightReceiver

            return NcclWeightReceiver(actor_id, device=CudaDevice(), keys=keys, deadline_s=weights.deadline_s)


# -- shared by the channels


def describe(tensors: Tensors, bucket_bytes: int) -> tuple[Layout, list[torch.Tensor]]:
    """Plan the layout of a version.

    Returns:
        The layout, and the tensors in its order.

    Raises:
        WeightsError: a dtype that cannot be sent, or a name given twice.
    """
    named = list(tensors)
    specs = tuple((name, tensor.dtype, tensor.shape) for name, tensor in named)
    try:
        return _plan_again(specs, bucket_bytes), [tensor for _, tensor in named]
    except ValueError as error:
        raise WeightsError(str(error)) from error


@lru_cache(maxsize=4)
def _plan_again(specs: tuple[tuple[str, torch.dtype, torch.Size], ...], bucket_bytes: int) -> Layout:
    """The layout of a model does not change from version to version."""
    plain = ((name, str(dtype).removeprefix("torch."), tuple(shape)) for name, dtype, shape in specs)
    return plan_layout(plain, bucket_bytes)


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, uint8 `[num_bytes]`, on its own device; a copy only if it is not contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def view_tensors(layout: Layout, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a version as views into its bytes.

    Args:
        layout: of the version.
        flat: uint8 `[layout.num_bytes]`, aligned to 64 bytes.
    """
    views = {}
    for spec in layout.tensors:
        dtype = getattr(torch, spec.dtype)
        views[spec.name] = flat[spec.start : spec.end].view(dtype).view(spec.shape)
    return views


def read_manifest(announcement: WeightsAnnouncement, channel: str) -> Manifest:
    """The checked manifest of an announcement.

    Raises:
        WeightsError: it is malformed, or another channel's.
    """
    if announcement.channel != channel:
        raise WeightsError(
            f"version {announcement.policy_version} was published over {announcement.channel}, this receiver speaks "
            f"{channel}; set weights.channel alike everywhere"
        )
    try:
        return Manifest.from_plain(announcement.manifest)
    except ValueError as error:
        raise WeightsError(f"version {announcement.policy_version}: {error}") from error


def source_field(manifest: Manifest, name: str, kind: type) -> Any:
    """One entry of `manifest.source`, of the expected type.

    Raises:
        WeightsError: it is missing or of another type.
    """
    value = manifest.source.get(name)
    if not isinstance(value, kind):
        raise WeightsError(f"malformed manifest: source.{name} is {value!r}, expected {kind.__name__}")
    return value


def seconds_since(start: float) -> float:
    """Seconds since a reading of `time.perf_counter`."""
    return time.perf_counter() - start


assert all(hasattr(torch, name) for name in ITEM_BYTES)

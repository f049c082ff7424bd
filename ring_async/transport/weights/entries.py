"""The weight channels as the registry knows them: how each end is made, and what a channel needs to work here.

Owns: the settings that each end takes. Does not own: the channels; each is imported only when it is chosen, so that a
machine without GPUs needs no CuPy.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.transport.curve import CurveKeys
from ring_async.transport.weights.base import WeightReceiver, WeightSender
from ring_async.transport.weights.nccl.wire import NCCL_MIN_BUCKET_BYTES


class ShmEntry:
    """Memory that both ends map: one host."""

    def make_sender(self, config: Config, socket_dir: Path, actor_id: str, keys: CurveKeys | None) -> WeightSender:
        from ring_async.transport.weights.shm import ShmWeightSender

        weights = config.weights
        return ShmWeightSender(bucket_bytes=weights.bucket_bytes, retain_versions=weights.retain_versions)

    def make_receiver(self, config: Config, actor_id: str, keys: CurveKeys | None) -> WeightReceiver:
        from ring_async.transport.weights.shm import ShmWeightReceiver

        return ShmWeightReceiver()

    def check(self, config: Config) -> list[str]:
        """A cluster of several hosts is refused once it is joined (`placement.places`)."""
        return []

    def check_host(self, config: Config) -> list[str]:
        return []


class ZmqEntry:
    """Sockets: any host."""

    def make_sender(self, config: Config, socket_dir: Path, actor_id: str, keys: CurveKeys | None) -> WeightSender:
        from ring_async.transport.weights.zmq.sender import ZmqWeightSender

        return ZmqWeightSender(
            f"weights-{actor_id}",
            transport=config.transport,
            socket_dir=socket_dir,
            keys=keys,
            bucket_bytes=config.weights.bucket_bytes,
            retain_versions=config.weights.retain_versions,
        )

    def make_receiver(self, config: Config, actor_id: str, keys: CurveKeys | None) -> WeightReceiver:
        from ring_async.transport.weights.zmq.receiver import ZmqWeightReceiver

        return ZmqWeightReceiver(keys=keys, deadline_s=config.weights.deadline_s)

    def check(self, config: Config) -> list[str]:
        return []

    def check_host(self, config: Config) -> list[str]:
        return []


class NcclEntry:
    """GPUs to GPUs: each end has one of its own."""

    def make_sender(self, config: Config, socket_dir: Path, actor_id: str, keys: CurveKeys | None) -> WeightSender:
        from ring_async.transport.weights.nccl.device import CudaDevice
        from ring_async.transport.weights.nccl.sender import NcclWeightSender

        return NcclWeightSender(
            f"weights-{actor_id}",
            device=CudaDevice(),
            transport=config.transport,
            socket_dir=socket_dir,
            keys=keys,
            bucket_bytes=max(config.weights.bucket_bytes, NCCL_MIN_BUCKET_BYTES),
            is_retaining=config.weights.nccl_retain,
            deadline_s=config.weights.deadline_s,
        )

    def make_receiver(self, config: Config, actor_id: str, keys: CurveKeys | None) -> WeightReceiver:
        from ring_async.transport.weights.nccl.device import CudaDevice
        from ring_async.transport.weights.nccl.receiver import NcclWeightReceiver

        return NcclWeightReceiver(actor_id, device=CudaDevice(), keys=keys, deadline_s=config.weights.deadline_s)

    def check(self, config: Config) -> list[str]:
        """Every actor that sends or receives weights needs a GPU; NCCL refuses two ranks on one."""
        counts = config.roster.counts
        gpus = {role: config.placement.gpus.get(role, 0.0) for role in (Role.LEARNER, Role.ROLLOUT, Role.EVALUATOR)}
        return [
            f"each {role} needs a GPU of its own; placement.gpus.{role} is {num:g}, set it to 1, or use shm or zmq"
            for role, num in gpus.items()
            if counts[role] and num < 1
        ]

    def check_host(self, config: Config) -> list[str]:
        if importlib.util.find_spec("cupy") is None:
            return ["the package cupy is missing: pip install ring-async[gpu], or use shm or zmq"]
        return []

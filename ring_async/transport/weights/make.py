"""From configuration to weight channel: the sending and the receiving end that `weights.channel` names.

Owns: the choice. Does not own: the channels; each is imported only when it is chosen, so that a machine without GPUs
needs no CuPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ring_async.config.schema import Config

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

from ring_async.transport.weights.base import WeightReceiver, WeightSender
from ring_async.transport.weights.nccl.wire import NCCL_MIN_BUCKET_BYTES


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
            from ring_async.transport.weights.shm import ShmWeightSender

            return ShmWeightSender(bucket_bytes=weights.bucket_bytes, retain_versions=weights.retain_versions)
        case "zmq":
            from ring_async.transport.weights.zmq.sender import ZmqWeightSender

            return ZmqWeightSender(
                f"weights-{actor_id}",
                transport=config.transport,
                socket_dir=socket_dir,
                keys=keys,
                bucket_bytes=weights.bucket_bytes,
                retain_versions=weights.retain_versions,
            )
        case "nccl":
            from ring_async.transport.weights.nccl.device import CudaDevice
            from ring_async.transport.weights.nccl.sender import NcclWeightSender

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
            from ring_async.transport.weights.shm import ShmWeightReceiver

            return ShmWeightReceiver()
        case "zmq":
            from ring_async.transport.weights.zmq.receiver import ZmqWeightReceiver

            return ZmqWeightReceiver(keys=keys, deadline_s=weights.deadline_s)
        case "nccl":
            from ring_async.transport.weights.nccl.device import CudaDevice
            from ring_async.transport.weights.nccl.receiver import NcclWeightReceiver

            return NcclWeightReceiver(actor_id, device=CudaDevice(), keys=keys, deadline_s=weights.deadline_s)

"""The ranks of a learner: which one this process is, and the few things they tell each other in numbers and bytes.

    ranks = join_ranks(RankPlace(rank=1, num_ranks=2, store="/run/…/ranks", device="cpu"))
    ranks.sum(loss)                       # the same on every rank
    ranks.gather(b"my part")              # [b"…", b"my part"] on rank 0, None elsewhere

Owns: joining torch's process group (NCCL where the device is a GPU, gloo elsewhere, and gloo for bytes always), sums,
maxima, gathers and broadcasts. Does not own starting or watching the processes (`actors.learner_ranks`), nor how a
model is split over them (`hf.sharding`).

Invariants: what ranks tell each other are tensors and bytes that the caller encodes; nothing is unpickled. A rank alone
needs no process group, and every call returns at once.
"""

from __future__ import annotations

import os
from datetime import timedelta

import msgspec
import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

_TCP = "tcp://"

COLLECTIVE_TIMEOUT_S = 1800.0
"""Longest wait inside one collective. Long, since a rank may be compiling; a rank that died is noticed from outside."""


class RankPlace(msgspec.Struct, frozen=True):
    """Which rank a process is, and where the ranks meet.

    Attributes:
        rank: 0 … num_ranks − 1; rank 0 is the learner's own process.
        num_ranks: of the learner.
        store: path of the file through which they find each other, which no earlier group used; on several hosts
            `tcp://host:port` of a store (`serve_store`); "" for a rank alone.
        device: torch's name of the device this rank computes on.
    """

    rank: int
    num_ranks: int
    store: str
    device: str


class Ranks:
    """The ranks as one of them sees them. Args: `place`; `join_ranks` makes the process group first."""

    def __init__(self, place: RankPlace) -> None:
        self.rank = place.rank
        self.num_ranks = place.num_ranks
        self.device = torch.device(place.device)
        self._bytes_group: dist.ProcessGroup | None = None
        self._publish_group: dist.ProcessGroup | None = None
        if self.num_ranks > 1:
            timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
            self._bytes_group = dist.new_group(backend="gloo", timeout=timeout)
            # Its own, since versions are published while the next step trains.
            self._publish_group = dist.new_group(backend="gloo", timeout=timeout)

    @property
    def is_alone(self) -> bool:
        return self.num_ranks == 1

    @property
    def bytes_group(self) -> dist.ProcessGroup | None:
        """The group over host memory for what is told between two steps."""
        return self._bytes_group

    @property
    def publish_group(self) -> dist.ProcessGroup | None:
        """The group over host memory that weights are published through."""
        return self._publish_group

    def mesh(self, data: int, shard: int) -> DeviceMesh:
        """The mesh of FSDP: `(data, shard)`, or `(shard,)` with one copy of the model."""
        if data == 1:
            return init_device_mesh(self.device.type, (shard,), mesh_dim_names=("shard",))
        return init_device_mesh(self.device.type, (data, shard), mesh_dim_names=("data", "shard"))

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; in place."""
        if not self.is_alone:
            dist.all_reduce(value)
        return value

    def maximum(self, value: int) -> int:
        """The largest of the ranks' numbers."""
        if self.is_alone:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._bytes_group)
        return int(found)

    def gather(self, content: bytes) -> list[bytes] | None:
        """The bytes of every rank, in order, on rank 0; None on the others."""
        if self.is_alone:
            return [content]
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.num_ranks)]
        dist.all_gather(sizes, torch.tensor(len(content)), group=self._bytes_group)
        longest = max(1, *(int(size) for size in sizes))
        padded = _from_bytes(content.ljust(longest, b"\0"))
        parts = [torch.empty_like(padded) for _ in range(self.num_ranks)] if self.rank == 0 else None
        dist.gather(padded, parts, dst=0, group=self._bytes_group)
        if parts is None:
            return None
        return [part.numpy().tobytes()[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, content: bytes) -> bytes:
        """Rank 0's bytes, on every rank; what the others give is ignored."""
        if self.is_alone:
            return content
        size = torch.tensor(len(content))
        dist.broadcast(size, 0, group=self._bytes_group)
        sent = _from_bytes(content if self.rank == 0 else bytes(int(size)))
        if int(size):
            dist.broadcast(sent, 0, group=self._bytes_group)
        return sent.numpy().tobytes()

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.maximum(0)

    def leave(self) -> None:
        """Leave the process group. Idempotent."""
        if not self.is_alone and dist.is_initialized():
            dist.destroy_process_group()


def alone(device: str = "cpu") -> Ranks:
    """The one rank of a learner that trains in one process."""
    return Ranks(RankPlace(0, 1, "", device))


def join_ranks(place: RankPlace) -> Ranks:
    """Join the process group of a learner's ranks, before any takes memory of a GPU. Blocks until all are there."""
    # Forwards of many sizes would leave holes between segments of a GPU's memory.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if place.num_ranks == 1:
        return Ranks(place)
    if not place.store.startswith(_TCP):
        # All ranks run on one host: nobody else needs to reach gloo's ports, which know no password.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device(place.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_store_of(place),
        rank=place.rank,
        world_size=place.num_ranks,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
        device_id=device if device.type == "cuda" else None,
    )
    return Ranks(place)


def serve_store(address: str, num_ranks: int) -> tuple[str, object]:
    """Open the store through which ranks of several hosts find each other, in this process, on a free port.

    torch's store knows no password: the network between the learner's hosts must be closed (docs/security.md).

    Returns:
        Its name for `RankPlace.store`, and what keeps it open.
    """
    store = dist.TCPStore(address, 0, num_ranks, is_master=True, wait_for_workers=False)
    return f"{_TCP}{address}:{store.port}", store


def use_interface(address: str) -> None:
    """Have gloo and NCCL use the network interface of this address, here and in processes that start from here."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(key, name)


def _store_of(place: RankPlace) -> dist.Store:
    if not place.store.startswith(_TCP):
        return dist.FileStore(place.store, place.num_ranks)
    host, _, port = place.store.removeprefix(_TCP).rpartition(":")
    return dist.TCPStore(host, int(port), place.num_ranks, is_master=False)


def _from_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)

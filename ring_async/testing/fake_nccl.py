"""A device and communicators without a GPU: host memory, and UNIX sockets between processes.

The interface of `transport.weights.nccl.device.CudaDevice` and `cupy.cuda.nccl.NcclCommunicator`, and their manners:
building a communicator blocks until all ranks came, and a broadcast hangs for ever on a peer that died, until somebody
aborts. Lanes do their work at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ring_async.core.fold64 import fold64
from ring_async.transport.weights.nccl.device import NCCL_UINT8, Communicator, Lane, Mark, Pace, Part
from ring_async.types import UInt8

UNIQUE_ID_BYTES = 128
_CHUNK_BYTES = 64 << 10


class FakeNcclError(RuntimeError):
    """What NCCL's own error is to CuPy."""


class HostDevice:
    """Host memory in the part of a GPU.

    Args:
        bytes_per_s: speed of a broadcast, to be able to interrupt one; None: as fast as it goes.
    """

    def __init__(self, *, bytes_per_s: float | None = None) -> None:
        self._bytes_per_s = bytes_per_s

    def empty(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def lane(self) -> Lane:
        return _HostLane()

    def callers_mark(self) -> Mark:
        return _DoneMark()

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.data_ptr() % 16 == 0

    def grouped(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def make_unique_id(self) -> bytes:
        path = Path(tempfile.gettempdir()) / f"fake-nccl-{secrets.token_hex(8)}"
        return str(path).encode().ljust(UNIQUE_ID_BYTES, b"\0")

    def connect(self, unique_id: bytes, num_ranks: int, rank: int) -> Communicator:
        return FakeCommunicator(num_ranks, unique_id, rank, self._bytes_per_s)

    def enter_thread(self) -> None:
        """Nothing to choose: there is one host."""


class _DoneMark:
    def is_done(self) -> bool:
        return True


class _HostLane:
    handle = 0

    def after(self, mark: Mark) -> None:
        """Nothing to wait for: work in host memory is done when its call returns."""

    def mark(self) -> Mark:
        return _DoneMark()

    def zeros(self, num_sums: int) -> torch.Tensor:
        return torch.zeros(num_sums, dtype=torch.int64)

    def copy(self, targets: list[torch.Tensor], contents: list[torch.Tensor]) -> None:
        torch._foreach_copy_(targets, contents)

    def clear(self, targets: list[torch.Tensor]) -> None:
        torch._foreach_zero_(targets)

    def tabulate(self, parts: Sequence[Part]) -> torch.Tensor:
        return torch.tensor(parts, dtype=torch.int64).reshape(-1, len(Part._fields))

    def fold64(self, table: torch.Tensor, sums: torch.Tensor, pace: Pace) -> None:
        del pace
        for part in map(Part._make, table.tolist()):
            content = _memory(part.source, part.num_bytes)
            if part.target:
                _memory(part.target, part.num_bytes)[:] = content
            value = (int(sums[part.bucket]) + fold64(content, part.start)) % 2**64
            sums[part.bucket] = value - 2**64 if value >= 2**63 else value

    def fetch(self, sums: torch.Tensor) -> torch.Tensor:
        return sums


class FakeCommunicator:
    """One rank. Rank 0 listens at the path in the unique id, and is the only root there is.

    Args:
        num_ranks: of the communicator.
        unique_id: from `HostDevice.make_unique_id`.
        rank: of this one.
        bytes_per_s: speed of the root; None: unbounded.
    """

    def __init__(self, num_ranks: int, unique_id: bytes, rank: int, bytes_per_s: float | None = None) -> None:
        self._rank = rank
        self._bytes_per_s = bytes_per_s
        self._aborted = threading.Event()
        path = unique_id.rstrip(b"\0").decode()
        if rank == 0:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(num_ranks)
                self._peers = [listener.accept()[0] for _ in range(num_ranks - 1)]
            Path(path).unlink()
        else:
            self._peers = [_connect(path)]

    def broadcast(  # noqa: PLR0917 - CuPy's signature
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, root: int, stream: int
    ) -> None:
        """As NCCL's, on host memory and at once.

        Raises:
            FakeNcclError: aborted, before or meanwhile.
        """
        if datatype != NCCL_UINT8 or root != 0 or stream != 0:
            raise FakeNcclError(f"datatype {datatype}, root {root}, stream {stream} are not faked")
        memory = _memory(recvbuf if self._rank else sendbuf, count).data
        try:
            for start in range(0, count, _CHUNK_BYTES):
                chunk = memory[start : start + _CHUNK_BYTES]
                if self._rank == 0:
                    self._send(chunk)
                else:
                    self._receive(chunk)
        except OSError as error:
            # A GPU's kernel would spin here, waiting for a peer that is gone.
            self._aborted.wait()
            raise FakeNcclError(f"aborted ({error})") from error

    def abort(self) -> None:
        """End every `broadcast` under way with an error; the communicator is of no use any more. Idempotent."""
        self._aborted.set()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def destroy(self) -> None:
        self.abort()

    def _send(self, chunk: memoryview) -> None:
        if self._bytes_per_s is not None:
            time.sleep(len(chunk) / self._bytes_per_s)
        for peer in self._peers:
            peer.sendall(chunk)

    def _receive(self, chunk: memoryview) -> None:
        while chunk:
            num_bytes = self._peers[0].recv_into(chunk)
            if num_bytes == 0:
                raise ConnectionResetError("the root is gone")
            chunk = chunk[num_bytes:]


def _memory(address: int, num_bytes: int) -> UInt8:
    return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))


def _connect(path: str) -> socket.socket:
    """Wait for rank 0 as long as it takes, like NCCL's bootstrap."""
    while True:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            peer.close()
            time.sleep(0.005)
        else:
            return peer

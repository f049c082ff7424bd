"""What a broadcast needs of the accelerator: memory, ordered lanes of work, communicators.

Owns: the protocols, and their implementation over torch (memory, streams, events) and CuPy (NCCL, the checksum kernel).
`ring_async.testing.fake_nccl` implements the same over host memory and sockets. Does not own: who broadcasts what when.

Invariants: everything put on one lane happens in order; lanes run beside each other unless one is told to come `after`
a mark of another. Nothing here waits for the device except `Mark.wait`.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np
import torch

from ring_async.core.fold64 import GOLDEN, ODD
from ring_async.errors import WeightsError

NCCL_UINT8 = 1
"""`ncclUint8`, as `cupy.cuda.nccl` takes it."""


class Communicator(Protocol):
    """The part of `cupy.cuda.nccl.NcclCommunicator` that is used."""

    def broadcast(  # noqa: PLR0917 - CuPy's signature
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, root: int, stream: int
    ) -> None: ...

    def abort(self) -> None: ...

    def destroy(self) -> None: ...


class Mark(Protocol):
    """A point in a lane."""

    def is_done(self) -> bool: ...


class Lane(Protocol):
    """Work in order. `handle` is the stream, as a communicator takes it."""

    handle: int

    def after(self, mark: Mark) -> None:
        """Let what follows on this lane wait for a mark of another."""
        ...

    def mark(self) -> Mark:
        """Mark the end of what was put on this lane so far."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy uint8 bytes; the source may lie in host memory."""
        ...

    def fill_zero(self, target: torch.Tensor) -> None:
        """Set a whole tensor to 0."""
        ...

    def zeros(self, num_sums: int) -> torch.Tensor:
        """Memory for checksums, int64 `[num_sums]`."""
        ...

    def fold64(self, content: torch.Tensor, sums: torch.Tensor, index: int) -> None:
        """Put the checksum of uint8 `content` into int64 `sums[index]`, which must be 0 before."""
        ...

    def read(self, sums: torch.Tensor) -> tuple[int, ...]:
        """Checksums, unsigned. Waits for this lane, so call it when its mark is done."""
        ...


class WeightDevice(Protocol):
    """One accelerator."""

    def empty(self, num_bytes: int) -> torch.Tensor:
        """Memory for weights, uint8 `[num_bytes]`. Raises: WeightsError when there is not enough."""
        ...

    def lane(self) -> Lane: ...

    def callers_mark(self) -> Mark:
        """A mark after all work that the calling thread has put on the device."""
        ...

    def make_unique_id(self) -> bytes: ...

    def connect(self, unique_id: bytes, num_ranks: int, rank: int) -> Communicator:
        """Build a communicator. Blocks until all ranks have called it."""
        ...

    def enter_thread(self) -> None:
        """Make this device the calling thread's."""
        ...


def wait(mark: Mark, deadline_s: float, what: str) -> None:
    """Wait for a mark.

    Args:
        mark: of any lane.
        deadline_s: on `time.monotonic`.
        what: for the message.

    Raises:
        WeightsError: the deadline passed.
    """
    while not mark.is_done():
        if time.monotonic() > deadline_s:
            raise WeightsError(f"{what}: not done before its deadline")
        time.sleep(5e-5)


class CudaDevice:
    """One NVIDIA GPU.

    Args:
        index: of the GPU, in torch's numbering.

    Raises:
        WeightsError: no CUDA, or no CuPy.
    """

    def __init__(self, index: int | None = None) -> None:
        if not torch.cuda.is_available():
            raise WeightsError("weights.channel=nccl needs NVIDIA GPUs and a torch built for CUDA; use shm or zmq")
        try:
            import cupy
            from cupy.cuda import nccl
        except ImportError as error:
            raise WeightsError(f"weights.channel=nccl needs CuPy: pip install ring-async[gpu] ({error})") from error
        # Weights leave one GPU for all others: NVLink multicast gains nothing here, and is not to be had on every host.
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        self._index = torch.cuda.current_device() if index is None else index
        self._cupy: Any = cupy
        self._nccl: Any = nccl
        self.enter_thread()
        self._fold = cupy.RawKernel(_FOLD64_SOURCE, "fold64", options=("-std=c++17",))
        self._num_blocks = 8 * torch.cuda.get_device_properties(self._index).multi_processor_count

    def empty(self, num_bytes: int) -> torch.Tensor:
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, device=f"cuda:{self._index}")
        except torch.OutOfMemoryError as error:
            raise WeightsError(f"GPU {self._index}: no {num_bytes / 2**30:.1f} GiB for a weight version") from error

    def lane(self) -> Lane:
        return _CudaLane(self._index, self._cupy, self._fold, self._num_blocks)

    def callers_mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._index))
        return _CudaMark(event)

    def make_unique_id(self) -> bytes:
        return bytes(byte & 0xFF for byte in self._nccl.get_unique_id())  # CuPy before 14: signed numbers.

    def connect(self, unique_id: bytes, num_ranks: int, rank: int) -> Communicator:
        as_cupy_wants: object = unique_id
        if int(self._cupy.__version__.split(".")[0]) < 14:
            as_cupy_wants = tuple(byte - 256 if byte > 127 else byte for byte in unique_id)
        communicator: Communicator = self._nccl.NcclCommunicator(num_ranks, as_cupy_wants, rank)
        return communicator

    def enter_thread(self) -> None:
        torch.cuda.set_device(self._index)
        self._cupy.cuda.Device(self._index).use()


class _CudaMark:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def is_done(self) -> bool:
        return bool(self.event.query())


class _CudaLane:
    """A stream of high priority: its kernels get their few processors before those of a busy engine."""

    def __init__(self, index: int, cupy: Any, fold: Any, num_blocks: int) -> None:
        self._stream = torch.cuda.Stream(index, priority=-1)
        self.handle = int(self._stream.cuda_stream)
        self._cupy_stream = cupy.cuda.ExternalStream(self.handle)
        self._fold = fold
        self._num_blocks = num_blocks

    def after(self, mark: Mark) -> None:
        assert isinstance(mark, _CudaMark)
        self._stream.wait_event(mark.event)

    def mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(self._stream)
        return _CudaMark(event)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def fill_zero(self, target: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.zero_()

    def zeros(self, num_sums: int) -> torch.Tensor:
        with torch.cuda.stream(self._stream):
            return torch.zeros(num_sums, dtype=torch.int64, device=self._stream.device)

    def fold64(self, content: torch.Tensor, sums: torch.Tensor, index: int) -> None:
        arguments = (
            np.uint64(content.data_ptr()),
            np.uint64(content.numel() // 8),
            np.uint64(sums.data_ptr() + 8 * index),
        )
        with self._cupy_stream:
            self._fold((self._num_blocks,), (256,), arguments)

    def read(self, sums: torch.Tensor) -> tuple[int, ...]:
        # Not on the caller's stream: there, an engine's whole queue may lie before it.
        with torch.cuda.stream(self._stream):
            return tuple(value % 2**64 for value in sums.tolist())


_FOLD64_SOURCE = f"""
extern "C" __global__ void fold64(unsigned long long address, unsigned long long num_words, unsigned long long out) {{
    typedef unsigned long long u64;
    const u64* words = reinterpret_cast<const u64*>(address);
    const u64 stride = (u64)gridDim.x * blockDim.x;
    u64 sum = 0;
    #pragma unroll 4
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < num_words; i += stride) {{
        u64 x = __ldcs(words + i) + (i + 1) * {GOLDEN}ull;
        u64 y = (x ^ (x >> 32)) * {ODD}ull;
        sum += y ^ (y >> 29);
    }}
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if ((threadIdx.x & 31) == 0) atomicAdd(reinterpret_cast<u64*>(out), sum);
}}
"""

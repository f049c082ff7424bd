"""What a broadcast needs of the accelerator: memory, ordered lanes of work, communicators.

Owns: the protocols, and their implementation over torch (memory, streams, events) and CuPy (NCCL, the checksum kernel).
`ring_async.testing.fake_nccl` implements the same over host memory and sockets. Does not own: who broadcasts what when.

Invariants: everything put on one lane happens in order; lanes run beside each other unless one is told to come `after`
a mark of another. Nothing here waits for the device except `Mark.wait`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple, Protocol

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


Pace = Literal["beside", "ahead", "alone"]
"""How much of the device hashing may take. `beside`: little, a broadcast sends the same bytes. `ahead`: enough to have
done with a bucket before the next one is received. `alone`: all of it."""


class Part(NamedTuple):
    """Bytes of a bucket on this device, to be hashed and perhaps copied. Addresses and numbers are multiples of 16."""

    source: int
    target: int
    """Address to copy to; 0: do not copy."""
    num_bytes: int
    start: int
    """Byte of the bucket at which the part begins."""
    bucket: int
    """Number of the bucket whose checksum the part belongs to."""


class Lane(Protocol):
    """A queue of work on the device, done in order. `handle` is the stream, as a communicator takes it."""

    handle: int

    def after(self, mark: Mark) -> None:
        """Let what follows on this lane wait for a mark of another."""
        ...

    def mark(self) -> Mark:
        """Mark the end of what was put on this lane so far."""
        ...

    def zeros(self, num_sums: int) -> torch.Tensor:
        """Memory for checksums, int64 `[num_sums]`."""
        ...

    def copy(self, targets: list[torch.Tensor], contents: list[torch.Tensor]) -> None:
        """Fill each uint8 target with its content, from any device."""
        ...

    def clear(self, targets: list[torch.Tensor]) -> None:
        """Fill uint8 targets with zeros."""
        ...

    def tabulate(self, parts: Sequence[Part]) -> torch.Tensor:
        """Parts as `fold64` takes them, int64 `[len(parts), 5]`; a slice of rows is some of them."""
        ...

    def fold64(self, table: torch.Tensor, sums: torch.Tensor, pace: Pace) -> None:
        """Add what parts contribute to the checksums of their buckets, int64 `sums`, and copy them in the same pass."""
        ...

    def fetch(self, sums: torch.Tensor) -> torch.Tensor:
        """Bring checksums to the host, int64; they are there when a later mark is done."""
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

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a contiguous tensor lies here, aligned to 16 bytes: whether its bytes can be sent from there."""
        ...

    def grouped(self) -> AbstractContextManager[None]:
        """Broadcasts of the calling thread in here become one kernel: a small one costs no more than its bytes."""
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
        time.sleep(2e-5)


def unsigned(sums: torch.Tensor) -> tuple[int, ...]:
    """Checksums from `Lane.fetch`, as they travel."""
    return tuple(value % 2**64 for value in sums.tolist())


_SWITCH_INTERVAL_S = 1e-4
_prompt_lock = threading.Lock()
_num_prompt = 0
_usual_interval_s = 0.0


@contextmanager
def prompt_threads() -> Iterator[None]:
    """Let waiting threads of this process have the interpreter after 0.1 ms, rather than Python's 5 ms.

    A broadcast of some GiB takes ten milliseconds, and passes from thread to thread half a dozen times. Beside an
    engine that launches kernels without pause, each of these would wait the full interval. May be nested.
    """
    global _num_prompt, _usual_interval_s
    with _prompt_lock:
        if _num_prompt == 0:
            _usual_interval_s = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _num_prompt += 1
    try:
        yield
    finally:
        with _prompt_lock:
            _num_prompt -= 1
            if _num_prompt == 0:
                sys.setswitchinterval(_usual_interval_s)


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
        self._kernel = cupy.RawKernel(_FOLD64_SOURCE, "fold64", options=("-std=c++17",))
        self._num_processors = torch.cuda.get_device_properties(self._index).multi_processor_count

    def empty(self, num_bytes: int) -> torch.Tensor:
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, device=f"cuda:{self._index}")
        except torch.OutOfMemoryError as error:
            raise WeightsError(f"GPU {self._index}: no {num_bytes / 2**30:.1f} GiB for a weight version") from error

    def lane(self) -> Lane:
        return _CudaLane(self._index, self._cupy, self._kernel, self._num_processors)

    def callers_mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._index))
        return _CudaMark(event)

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cuda and tensor.get_device() == self._index and tensor.data_ptr() % VECTOR_BYTES == 0

    @contextmanager
    def grouped(self) -> Iterator[None]:
        self._nccl.groupStart()
        try:
            yield
        finally:
            self._nccl.groupEnd()

    def make_unique_id(self) -> bytes:
        return bytes(self._nccl.get_unique_id())

    def connect(self, unique_id: bytes, num_ranks: int, rank: int) -> Communicator:
        communicator: Communicator = self._nccl.NcclCommunicator(num_ranks, unique_id, rank)
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

    def __init__(self, index: int, cupy: Any, kernel: Any, num_processors: int) -> None:
        self._stream = torch.cuda.Stream(index, priority=-1)
        self.handle = int(self._stream.cuda_stream)
        self._cupy_stream = cupy.cuda.Stream.from_external(self._stream)
        self._kernel = kernel
        self._num_processors = num_processors

    def after(self, mark: Mark) -> None:
        assert isinstance(mark, _CudaMark)
        self._stream.wait_event(mark.event)

    def mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(self._stream)
        return _CudaMark(event)

    def zeros(self, num_sums: int) -> torch.Tensor:
        with torch.cuda.stream(self._stream):
            return torch.zeros(num_sums, dtype=torch.int64, device=self._stream.device)

    def copy(self, targets: list[torch.Tensor], contents: list[torch.Tensor]) -> None:
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(targets, contents, non_blocking=True)  # one kernel for many small ones

    def clear(self, targets: list[torch.Tensor]) -> None:
        with torch.cuda.stream(self._stream):
            torch._foreach_zero_(targets)

    def tabulate(self, parts: Sequence[Part]) -> torch.Tensor:
        rows = torch.tensor(parts, dtype=torch.int64, pin_memory=True).reshape(-1, len(Part._fields))
        with torch.cuda.stream(self._stream):
            return rows.to(self._stream.device, non_blocking=True)

    def fold64(self, table: torch.Tensor, sums: torch.Tensor, pace: Pace) -> None:
        if not len(table):
            return
        num_blocks = {"beside": _FEW_BLOCKS, "ahead": self._num_processors, "alone": 4 * self._num_processors}[pace]
        arguments = (np.uint64(table.data_ptr()), np.uint64(len(table)), np.uint64(sums.data_ptr()))
        with self._cupy_stream:
            self._kernel((num_blocks,), (_NUM_THREADS,), arguments)

    def fetch(self, sums: torch.Tensor) -> torch.Tensor:
        with torch.cuda.stream(self._stream):
            return torch.empty(sums.shape, dtype=torch.int64, pin_memory=True).copy_(sums, non_blocking=True)


VECTOR_BYTES = 16
_NUM_THREADS = 512
_FEW_BLOCKS = 32
"""A broadcast of the same memory runs beside them at 0.97 of its speed, and slower beside one a processor
(`docs/log.md`)."""
_FOLD64_SOURCE = f"""
typedef unsigned long long u64;

__device__ __forceinline__ u64 mix(u64 word, u64 position) {{
    u64 x = word + (position + 1) * {GOLDEN}ull;
    u64 y = (x ^ (x >> 32)) * {ODD}ull;
    return y ^ (y >> 29);
}}

// Each row of the table is a part: source, target or 0, bytes, first byte's position in its bucket, bucket.
// Folds the part into its bucket's sum, and copies it to the target. All numbers are multiples of 16.
extern "C" __global__ void __launch_bounds__({_NUM_THREADS}) fold64(const u64* table, u64 num_parts, u64* sums) {{
  const u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const u64 stride = (u64)gridDim.x * blockDim.x;
  for (const u64* part = table; part < table + 5 * num_parts; part += 5) {{
    const ulonglong2* from = reinterpret_cast<const ulonglong2*>(part[0]);
    ulonglong2* to = reinterpret_cast<ulonglong2*>(part[1]);
    const u64 num_vectors = part[2] / 16;
    const u64 first = part[3] / 8;
    u64 sum = 0;
    u64 i = thread;
    for (; i + 3 * stride < num_vectors; i += 4 * stride) {{
        ulonglong2 v[4];
        #pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * stride);
        #pragma unroll
        for (int k = 0; k < 4; ++k) {{
            u64 position = first + 2 * (i + k * stride);
            sum += mix(v[k].x, position) + mix(v[k].y, position + 1);
            if (to) __stcs(to + i + k * stride, v[k]);
        }}
    }}
    for (; i < num_vectors; i += stride) {{
        ulonglong2 v = __ldcs(from + i);
        sum += mix(v.x, first + 2 * i) + mix(v.y, first + 2 * i + 1);
        if (to) __stcs(to + i, v);
    }}
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if ((threadIdx.x & 31) == 0) atomicAdd(sums + part[4], sum);
  }}
}}
"""

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
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

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


class Source(NamedTuple):
    """`num_bytes` from byte `start` of a bucket are those of `content` (uint8, any device), or zeros (None)."""

    start: int
    num_bytes: int
    content: torch.Tensor | None


class Lane(Protocol):
    """Work in order. `handle` is the stream, as a communicator takes it."""

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

    def pack(self, bucket: torch.Tensor, sources: Sequence[Source], sums: torch.Tensor, index: int) -> None:
        """Fill a bucket, uint8, and add its checksum to int64 `sums[index]`, which must be 0 before.

        The sources lie in the order of the bucket, without a gap; all but the last begin and end at multiples of 8
        bytes, or are followed by zeros up to one.
        """
        ...

    def fold64(self, content: torch.Tensor, sums: torch.Tensor, index: int, *, is_last: bool = False) -> None:
        """Add the checksum of uint8 `content` to int64 `sums[index]`, which must be 0 before.

        `is_last`: nothing is being received any more, so it may take the whole device.
        """
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

    def __init__(self, index: int, cupy: Any, kernel: Any, num_processors: int) -> None:
        self._stream = torch.cuda.Stream(index, priority=-1)
        self.handle = int(self._stream.cuda_stream)
        self._cupy_stream = cupy.cuda.ExternalStream(self.handle)
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

    def pack(self, bucket: torch.Tensor, sources: Sequence[Source], sums: torch.Tensor, index: int) -> None:
        address = bucket.data_ptr()
        out = sums.data_ptr() + 8 * index
        plain = []
        """What is copied in the plain way, and folded afterwards: `[start, end)` in the bucket."""
        with torch.cuda.stream(self._stream), self._cupy_stream:
            for start, num_bytes, content in sources:
                num_folded = 0
                if content is not None and content.is_cuda and content.data_ptr() % _VECTOR_BYTES == 0:
                    num_folded = num_bytes // _VECTOR_BYTES * _VECTOR_BYTES
                    self._launch(content.data_ptr(), address + start, num_folded, start, out, _PACK_BLOCKS)
                if num_folded < num_bytes:
                    rest = bucket[start + num_folded : start + num_bytes]
                    if content is None:
                        rest.zero_()
                    else:
                        rest.copy_(content[num_folded:], non_blocking=True)
                    plain.append((start + num_folded, start + num_bytes))
            for start, end in _join(plain):
                self._launch(address + start, 0, end - start, start, out, _PACK_BLOCKS)

    def fold64(self, content: torch.Tensor, sums: torch.Tensor, index: int, *, is_last: bool = False) -> None:
        num_blocks = 4 * self._num_processors if is_last else _FOLD_BLOCKS
        with self._cupy_stream:
            self._launch(content.data_ptr(), 0, content.numel(), 0, sums.data_ptr() + 8 * index, num_blocks)

    def _launch(  # noqa: PLR0917 - the kernel's own arguments
        self, source: int, target: int, num_bytes: int, start: int, out: int, num_blocks: int
    ) -> None:
        if num_bytes:
            arguments = tuple(np.uint64(value) for value in (source, target, num_bytes // 8, start // 8, out))
            self._kernel((min(num_blocks, -(-num_bytes // 16384)),), (_NUM_THREADS,), arguments)

    def read(self, sums: torch.Tensor) -> tuple[int, ...]:
        # Not on the caller's stream: there, an engine's whole queue may lie before it.
        with torch.cuda.stream(self._stream):
            return tuple(value % 2**64 for value in sums.tolist())


def _join(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Merge ranges that touch; they come in order."""
    start, end = 0, 0
    for first, last in ranges:
        if first != end:
            if start < end:
                yield start, end
            start = first
        end = last
    if start < end:
        yield start, end


_VECTOR_BYTES = 16
_NUM_THREADS = 512
_PACK_BLOCKS = 32
_FOLD_BLOCKS = 132
"""Enough to keep ahead of NCCL twice, too few to take the memory's bandwidth from it: with the whole device packing, a
broadcast beside it runs at half its speed. Found by trying, on two H200s (`docs/performance.md`)."""

_FOLD64_SOURCE = f"""
typedef unsigned long long u64;

__device__ __forceinline__ u64 mix(u64 word, u64 position) {{
    u64 x = word + (position + 1) * {GOLDEN}ull;
    u64 y = (x ^ (x >> 32)) * {ODD}ull;
    return y ^ (y >> 29);
}}

// Folds num_words words from `source` on, the first at position `first` of its bucket, and copies them to `target`
// unless that is 0. Addresses are multiples of 16, or of 8 where num_words is too small for a vector.
extern "C" __global__ void __launch_bounds__({_NUM_THREADS}) fold64(
    u64 source, u64 target, u64 num_words, u64 first, u64 out
) {{
    const u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    u64 sum = 0;
    u64 num_vectors = (source % 16 || target % 16) ? 0 : num_words / 2;
    const ulonglong2* from = reinterpret_cast<const ulonglong2*>(source);
    ulonglong2* to = reinterpret_cast<ulonglong2*>(target);
    u64 i = thread;
    for (; i + 3 * stride < num_vectors; i += 4 * stride) {{
        ulonglong2 v[4];
        #pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * stride);
        #pragma unroll
        for (int k = 0; k < 4; ++k) {{
            u64 position = first + 2 * (i + k * stride);
            sum += mix(v[k].x, position) + mix(v[k].y, position + 1);
            if (target) __stcs(to + i + k * stride, v[k]);
        }}
    }}
    for (; i < num_vectors; i += stride) {{
        ulonglong2 v = __ldcs(from + i);
        sum += mix(v.x, first + 2 * i) + mix(v.y, first + 2 * i + 1);
        if (target) __stcs(to + i, v);
    }}
    for (u64 w = 2 * num_vectors + thread; w < num_words; w += stride) {{
        u64 word = reinterpret_cast<const u64*>(source)[w];
        sum += mix(word, first + w);
        if (target) reinterpret_cast<u64*>(target)[w] = word;
    }}
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if ((threadIdx.x & 31) == 0) atomicAdd(reinterpret_cast<u64*>(out), sum);
}}
"""

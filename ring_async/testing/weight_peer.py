"""A receiver of broadcast weights in a process of its own, with an engine that keeps computing: to time and to kill.

Owns: the process, the pipe to it, its pretended engine. For `tests/` and `benchmarks/`; the same peer runs on a GPU
over NCCL and on a CPU over the fake communicator.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from ring_async.errors import WeightsError
from ring_async.testing.fake_nccl import HostDevice
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights
from ring_async.transport.weights.nccl.device import NCCL_UINT8, CudaDevice, WeightDevice
from ring_async.transport.weights.nccl.receiver import NcclWeightReceiver
from ring_async.transport.weights.nccl.round import RoundTimes

_CALL_S = 300.0
_NUM_MATRICES = 16
_NUM_ROWS = 512
"""Size of one multiplication: enough that a step's time is the device's, not Python's."""


def open_device(index: int | None, *, bytes_per_s: float | None = None) -> WeightDevice:
    """The GPU of this index, or host memory (None)."""
    return HostDevice(bytes_per_s=bytes_per_s) if index is None else CudaDevice(index)


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> int:
    """A sum over all bits of all tensors, by another way than the channel's own checksums."""
    total = 0
    for position, (name, tensor) in enumerate(tensors):
        words = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        words = words[: words.numel() // 8 * 8].view(torch.int64)
        total += (position + 1) * (int(words.sum()) + len(name))
    return total % 2**64


def broadcast_raw(device: WeightDevice, communicator: Any, memory: torch.Tensor, chunk_bytes: int) -> float:
    """Broadcast memory from rank 0 with nothing around it.

    Returns:
        When it was done, on `time.monotonic`.
    """
    lane = device.lane()
    for start in range(0, memory.numel(), chunk_bytes):
        size = min(chunk_bytes, memory.numel() - start)
        address = memory.data_ptr() + start
        communicator.broadcast(address, address, size, NCCL_UINT8, 0, lane.handle)
    mark = lane.mark()
    while not mark.is_done():
        time.sleep(5e-5)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class PeerStaged:
    """The peer's report on a version: when it was staged (`time.monotonic`), its digest if asked for, the stages."""

    staged_s: float
    digest: int | None
    times: RoundTimes


@dataclass(frozen=True, slots=True)
class PeerSwapped:
    """`pause_s`: how long its engine did not compute. `in_force_s`: when the first step with it began."""

    pause_s: float
    in_force_s: float


class WeightPeer:
    """Starts the process; methods are calls into it.

    Args:
        member: its name as a receiver.
        device_index: of its GPU; None: host memory.
        deadline_s: of its receiver.
    """

    def __init__(self, member: str, device_index: int | None, *, deadline_s: float = 60.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run_peer, args=(theirs, member, device_index, deadline_s), daemon=True)
        self._process.start()
        theirs.close()
        self.call("hello")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def begin(self, command: str, *arguments: Any) -> None:
        """Send a command; `result` waits for its answer."""
        self._pipe.send((command, arguments))

    def result(self) -> Any:
        """The answer to the command begun.

        Raises:
            WeightsError: the command failed, or the process is gone.
        """
        try:
            if not self._pipe.poll(_CALL_S):
                raise WeightsError(f"peer {self.pid}: no answer in {_CALL_S} s")
            is_right, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise WeightsError(f"peer {self.pid} is gone") from error
        if not is_right:
            raise WeightsError(answer)
        return answer

    def call(self, command: str, *arguments: Any) -> Any:
        """`begin`, then `result`."""
        self.begin(command, *arguments)
        return self.result()

    def kill(self) -> None:
        """SIGKILL, and wait for the process to be gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()
        self._pipe.close()
        self._process.close()

    def close(self) -> None:
        """Let it end by itself."""
        self._pipe.send(("exit", ()))
        self._process.join(30.0)
        self._pipe.close()
        self._process.close()


class _Engine:
    """Multiplies by the weights in force, step after step, in a thread; swaps between two steps."""

    def __init__(self, device: WeightDevice, index: int | None) -> None:
        self._device = device
        self._index = index
        self._tensors: dict[str, torch.Tensor] = {}
        self._operands: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._pending: tuple[StagedWeights, bool] | None = None
        self._swapped: PeerSwapped | None = None
        self._condition = threading.Condition()
        self._is_stopping = False
        self.num_steps = 0
        self._thread = threading.Thread(target=self._compute, name="engine", daemon=True)
        self._thread.start()

    def swap(self, staged: StagedWeights, *, is_copy: bool) -> PeerSwapped:
        with self._condition:
            self._swapped = None
            self._pending = (staged, is_copy)
            self._condition.wait_for(lambda: self._swapped is not None)
            assert self._swapped is not None
            return self._swapped

    def stop(self) -> None:
        self._is_stopping = True
        self._thread.join()

    def _compute(self) -> None:
        self._device.enter_thread()
        while not self._is_stopping:
            if self._pending is not None:
                self._swap(*self._pending)
            self._step()
            self.num_steps += 1

    def _swap(self, staged: StagedWeights, is_copy: bool) -> None:
        start_s = time.monotonic()
        if is_copy and self._tensors:
            for name, tensor in staged.tensors.items():
                self._tensors[name].copy_(tensor)
            self._synchronize()
        else:
            self._tensors = dict(staged.tensors)
        staged.close()
        self._operands = self._choose_operands()
        in_force_s = time.monotonic()
        with self._condition:
            self._pending = None
            self._swapped = PeerSwapped(in_force_s - start_s, in_force_s)
            self._condition.notify_all()

    def _choose_operands(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rows, a matrix in force, and memory for their product, for each multiplication of a step."""
        matrices = [tensor.T for tensor in self._tensors.values() if tensor.dim() == 2][:_NUM_MATRICES]
        if not self._operands:
            return [
                (matrix.new_zeros(_NUM_ROWS, matrix.shape[0]), matrix, matrix.new_zeros(_NUM_ROWS, matrix.shape[1]))
                for matrix in matrices
            ]
        return [(rows, matrix, products) for (rows, _, products), matrix in zip(self._operands, matrices, strict=True)]

    def _step(self) -> None:
        """One decoding step's kind of work: a few rows through some of the matrices, then a look at the result."""
        for rows, matrix, products in self._operands:
            torch.mm(rows, matrix, out=products)
        self._synchronize()
        if self._index is None or not self._operands:
            time.sleep(0.001)

    def _synchronize(self) -> None:
        if self._index is not None:
            torch.cuda.current_stream().synchronize()


def _run_peer(pipe: Connection, member: str, index: int | None, deadline_s: float) -> None:
    torch.set_num_threads(1)
    device = open_device(index)
    device.enter_thread()
    receiver = NcclWeightReceiver(member, device=device, deadline_s=deadline_s)
    engine = _Engine(device, index)
    peer = _Peer(device, receiver, engine)
    while True:
        command, arguments = pipe.recv()
        if command == "exit":
            break
        try:
            pipe.send((True, getattr(peer, command)(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))
    engine.stop()
    receiver.close()


class _Peer:
    """The commands."""

    def __init__(self, device: WeightDevice, receiver: NcclWeightReceiver, engine: _Engine) -> None:
        self._device = device
        self._receiver = receiver
        self._engine = engine
        self._staged: StagedWeights | None = None
        self._raw: Any = None
        self._memory = torch.empty(0)

    def hello(self) -> None: ...

    def join(self, endpoint: str) -> float:
        """Take part from now on. Returns the time."""
        now_s = time.monotonic()
        self._receiver.join(endpoint)
        return now_s

    def stage(self, announcement: WeightsAnnouncement, is_digested: bool = False) -> PeerStaged:
        self._staged = self._receiver.stage(announcement)
        staged_s = time.monotonic()
        found = digest(self._staged.tensors.items()) if is_digested else None
        return PeerStaged(staged_s, found, self._receiver.times)

    def swap(self, is_copy: bool = False) -> PeerSwapped:
        assert self._staged is not None
        staged, self._staged = self._staged, None
        return self._engine.swap(staged, is_copy=is_copy)

    def num_steps(self) -> int:
        return self._engine.num_steps

    def raw_connect(self, unique_id: bytes, num_bytes: int) -> None:
        self._memory = self._device.empty(num_bytes)
        self._raw = self._device.connect(unique_id, 2, 1)

    def raw_broadcast(self, chunk_bytes: int) -> float:
        return broadcast_raw(self._device, self._raw, self._memory, chunk_bytes)

    def raw_close(self) -> None:
        self._raw.destroy()
        self._memory = torch.empty(0)

"""A verifier whose code runs in worker processes, killed at the deadline and replaced within milliseconds.

Owns: the workers, who is idle, and deadlines. Does not own: what happens inside a worker (`host`), or what a verdict
is worth. Use from one event loop at a time.

Invariants: a call's time starts when a worker takes it. A worker that was late, crashed, or answered nonsense is
killed and never used again. A worker is retired after `max_verdicts`, so that nothing a response did to it lasts.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from ring_async.config.schema import VerifierSection
from ring_async.errors import VerifierError
from ring_async.sandbox.spawner import Spawner, SpawnerError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Isolation, Response, Verifier
from ring_async.verifiers.isolation.protocol import HostDescription, Outcome, Work, frame, frame_length

_START_TIMEOUT_S = 60.0
_decoder = msgspec.msgpack.Decoder(Outcome)


@dataclass(slots=True)
class _Worker:
    pid: int
    connection: socket.socket
    num_verdicts: int = 0


class IsolatedVerifier:
    """Runs `inner`'s class in `num_workers` processes; `inner` itself only declares its golden cases.

    Args:
        inner: built from the same section; gives name, version and golden cases.
        section: what the workers build their verifier from.
        isolation: `process` or `guarded`.
        num_workers: responses judged at once.
        memory_bytes: address space of one worker.
        max_verdicts: after which a worker is replaced.
    """

    def __init__(
        self,
        inner: Verifier,
        section: VerifierSection,
        isolation: Isolation,
        *,
        num_workers: int = 1,
        memory_bytes: int = 4 << 30,
        max_verdicts: int = 256,
    ) -> None:
        self.name = inner.name
        self.version = inner.version
        self._inner = inner
        self._max_verdicts = max_verdicts
        self._num_workers = num_workers
        self._num_alive = 0
        self._idle: list[_Worker] = []
        self._waiters: deque[asyncio.Future[None]] = deque()
        import_path = [entry or str(Path.cwd()) for entry in sys.path]
        description = HostDescription(inner.name, section.use, section.options, isolation, memory_bytes, import_path)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "ring_async.verifiers.isolation.worker",
            msgspec.json.encode(description).decode(),
        ]
        self._start_host = partial(Spawner, command, environment, _START_TIMEOUT_S)
        self._host_lock = threading.Lock()
        self._spawner = self._start_host()

    async def score_within(self, prompt: Prompt, response: Response, timeout_s: float) -> Verdict:
        """Judge in a worker; `timeout_s` counts from when one takes the work.

        Raises:
            VerifierError: `timeout`, `crash` (the worker died), `host` (no worker could start), or the verifier's own
                cause.
        """
        work = frame(Work(prompt, response.text, response.num_tokens, response.finish_reason))
        worker = await self._take()
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await self._exchange(worker, work)
        except BaseException as error:
            self._discard(worker)
            if isinstance(error, TimeoutError):
                raise VerifierError("timeout", f"{self.name}: no verdict within {timeout_s:g} s") from error
            if isinstance(error, OSError | EOFError | ValueError | msgspec.MsgspecError):
                raise VerifierError("crash", f"{self.name}: its worker process died or answered nonsense") from error
            raise
        worker.num_verdicts += 1
        if worker.num_verdicts >= self._max_verdicts or outcome.cause == "memory":
            self._discard(worker)
        else:
            self._give_back(worker)
        if outcome.cause:
            raise VerifierError(outcome.cause, f"{self.name}: {outcome.explanation}")
        return Verdict(outcome.reward, outcome.parts, outcome.explanation, outcome.seconds)

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Judge in a worker, without a deadline."""
        return await self.score_within(prompt, response, float("inf"))

    def golden_cases(self) -> Sequence[GoldenCase]:
        return self._inner.golden_cases()

    def close(self) -> None:
        """End all workers and their host, and wait for them."""
        self._spawner.close()
        for worker in self._idle:
            worker.connection.close()
        self._num_alive -= len(self._idle)
        self._idle.clear()
        self._inner.close()

    async def _take(self) -> _Worker:
        while not self._idle and self._num_alive >= self._num_workers:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_one()
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if self._idle:
            return self._idle.pop()
        self._num_alive += 1
        starting = asyncio.ensure_future(asyncio.to_thread(self._start_worker))
        try:
            return await asyncio.shield(starting)
        except SpawnerError as error:
            self._release_place()
            raise VerifierError("host", f"{self.name}: {error}") from error
        except asyncio.CancelledError:
            starting.add_done_callback(self._discard_started)
            raise

    def _discard_started(self, starting: asyncio.Future[_Worker]) -> None:
        """A worker came up for a call that was cancelled meanwhile."""
        if starting.cancelled() or starting.exception() is not None:
            self._release_place()
        else:
            self._give_back(starting.result())

    def _start_worker(self) -> _Worker:
        with self._host_lock:
            if self._spawner.has_ended:
                self._spawner.close()
                self._spawner = self._start_host()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self._spawner.start([theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return _Worker(pid, ours)

    async def _exchange(self, worker: _Worker, work: bytes) -> Outcome:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(worker.connection, work)
        length = frame_length(await _receive_exactly(loop, worker.connection, 4))
        return _decoder.decode(await _receive_exactly(loop, worker.connection, length))

    def _give_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._wake_one()

    def _discard(self, worker: _Worker) -> None:
        self._spawner.kill(worker.pid)
        worker.connection.close()
        self._release_place()

    def _release_place(self) -> None:
        self._num_alive -= 1
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


async def _receive_exactly(loop: asyncio.AbstractEventLoop, connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = await loop.sock_recv(connection, min(size - len(received), 1 << 20))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)

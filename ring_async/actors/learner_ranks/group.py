"""The other ranks of a learner, as rank 0 sees them: started, given orders, watched, and ended.

    group = RankGroup(context, socket_dir, keys)
    await group.start()
    answered = group.order(Train(7))            # on its way to every other rank
    report = await on_compute(engine.train_batch, rows, share)
    await answered                              # all others have trained too

Owns: the processes, the sockets to them, and the watcher. Does not own what ranks compute, nor a rank's restart: a
group that lost a rank is ended whole (`watcher`), rank 0 included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from ring_async.actors.base import ActorContext
from ring_async.actors.learner_ranks.orders import (
    SHARED_ERRORS,
    Answer,
    Begin,
    Given,
    Leave,
    Order,
    Write,
    answer_decoder,
    frame,
    read_frame,
)
from ring_async.config.load import dump_config
from ring_async.errors import ActorFailedError, RingAsyncError
from ring_async.transport.curve import CurveKeys

log = logging.getLogger(__name__)

T = TypeVar("T")

LOST_S = 2.0
"""How long after a failure of its own rank 0 listens for the end of another rank, which would explain it."""

LEAVE_S = 20.0
"""How long ranks have to end in order."""

_ERRORS = {error.__name__: error for error in SHARED_ERRORS}


class RankGroup:
    """Ranks 1 … R − 1. Call it from the event loop.

    Args:
        context: of the learner.
        socket_dir: of the fleet on this host.
        keys: of the run.

    Attributes:
        store: path of the file through which all ranks find each other.
    """

    def __init__(self, context: ActorContext, socket_dir: Path, keys: CurveKeys | None) -> None:
        self._context = context
        self._socket_dir = socket_dir
        self._keys = keys
        self._folder = Path(tempfile.mkdtemp(prefix="ring-ranks-"))
        self.store = str(self._folder / "store")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watcher: subprocess.Popen[bytes] | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.Task[None]] = []
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._num_orders = 0
        self._is_leaving = False
        self._lost = ""

    async def start(self) -> asyncio.Future[None]:
        """Start the ranks and their watcher. Returns what is done once every rank has its model."""
        config, spec = self._context.config, self._context.spec
        for rank in range(1, config.learner.parallel.num_ranks):
            ours, theirs = socket.socketpair()
            module = "ring_async.actors.learner_ranks.follower"
            # A session of its own: what is typed at the terminal reaches rank 0, which tells the others.
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            self._processes.append(process)
            reader, writer = await asyncio.open_connection(sock=ours)
            self._writers.append(writer)
            self._readers.append(asyncio.create_task(self._listen(rank, reader), name=f"rank {rank}"))
        ranks = {0: os.getpid()} | {rank: process.pid for rank, process in enumerate(self._processes, 1)}
        plan = {"ranks": ranks, "log": str(self._context.run_dir.logs / f"{spec.actor_id}.log")}
        self._watcher = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "ring_async.actors.learner_ranks.watcher", json.dumps(plan)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        log.info("%s: ranks %s", spec.actor_id, ranks)
        settings = dump_config(config)
        run_dir, socket_dir = str(self._context.run_dir.path), str(self._socket_dir)
        return self._send(
            [
                Begin(rank, spec.actor_id, self.store, settings, run_dir, socket_dir, self._keys)
                for rank in range(1, len(self._writers) + 1)
            ]
        )

    def order(self, order: Order) -> asyncio.Future[None]:
        """Give every rank an order. Returns what is done when all have carried it out.

        Awaiting it raises DivergedError, StorageError or ConfigError where a rank met one.
        """
        return self._send([order] * len(self._writers))

    async def write(self, folder: Path) -> None:
        """Have every rank write its files of the checkpoint captured last."""
        await self.order(Write(str(folder)))

    async def together(self, own: asyncio.Future[T], others: asyncio.Future[None]) -> T:
        """The result of rank 0's part, once every rank has done its own.

        Raises:
            ActorFailedError: a rank is gone; rank 0's part may never end.
            DivergedError, StorageError, ConfigError: what all ranks met.
        """
        parts: set[asyncio.Future[Any]] = {own, others}
        for part in parts:
            part.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, whoever fails first
        await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        if own.done() and not others.done() and not isinstance(own.exception(), SHARED_ERRORS):
            # A lost peer ends a collective over gloo at once, and its socket a moment later.
            await asyncio.wait({others}, timeout=LOST_S)
        elif not self._lost:
            await asyncio.wait(parts)
        if self._lost:
            raise ActorFailedError(self._lost)
        result = own.result()
        others.result()
        return result

    async def close(self) -> None:
        """Let the ranks leave in order; end those that do not. Where one is lost, the watcher ends them all."""
        self._is_leaving = True
        if self._watcher is not None and not self._lost:
            assert self._watcher.stdin is not None
            with contextlib.suppress(OSError):
                self._watcher.stdin.write(b"end\n")
                self._watcher.stdin.close()
        with contextlib.suppress(TimeoutError, RingAsyncError):
            async with asyncio.timeout(LEAVE_S):
                await self.order(Leave())
                await asyncio.gather(*(asyncio.to_thread(process.wait, LEAVE_S) for process in self._processes))
        for task in self._readers:
            task.cancel()
        for writer in self._writers:
            writer.close()
        watchers = [self._watcher] if self._watcher and not self._lost else []
        for process in (*self._processes, *watchers):
            process.kill()
            await asyncio.to_thread(process.wait)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, orders: list[Order]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._num_orders += 1
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in orders]
        self._waiting[self._num_orders] = futures
        for future, writer, order in zip(futures, self._writers, orders, strict=True):
            if self._lost:
                future.set_exception(ActorFailedError(self._lost))
            else:
                writer.write(frame(Given(self._num_orders, order)))  # type: ignore[arg-type]
        all_done: asyncio.Future[None] = asyncio.ensure_future(_all(futures))
        return all_done

    async def _listen(self, rank: int, reader: asyncio.StreamReader) -> None:
        """Consumes answers / produces the ends of orders / waits for the next / freed by the rank's end."""
        while content := await read_frame(reader):
            said: Answer = answer_decoder.decode(content)
            future = self._waiting[said.number][rank - 1]
            if said.kind:
                future.set_exception(_ERRORS[said.kind](f"rank {rank}: {said.error}"))
            else:
                future.set_result(None)
            if all(one.done() for one in self._waiting[said.number]):
                del self._waiting[said.number]
        if not self._is_leaving:
            self._lost = f"rank {rank} is gone"
            for future in [one for futures in self._waiting.values() for one in futures if not one.done()]:
                future.set_exception(ActorFailedError(self._lost))


async def _all(futures: list[asyncio.Future[None]]) -> None:
    await asyncio.gather(*futures)

"""The ranks of a learner that run on this host: processes, the sockets to them, and their watcher.

Owns: starting, speaking to and ending them. Does not own what ranks compute, nor ranks of other hosts (`remote`).
Its leader is the process that made it: rank 0 on the learner's first host, the process that stands for rank 0
elsewhere (`host`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ring_async.actors.learner_ranks.orders import Answer, Given, answer_decoder, frame, read_frame
from ring_async.actors.learner_ranks.watcher import LEADER
from ring_async.errors import ActorFailedError

log = logging.getLogger(__name__)

LEAVE_S = 20.0
"""How long ranks have to end in order."""


class LocalRanks:
    """Processes of some ranks. Call it from the event loop.

        ranks = LocalRanks(actor_id, log_path, on_lost)
        await ranks.start(range(1, 8), rank_of_leader=0)
        answer = await ranks.give(3, Given(1, Train(7)))

    Args:
        actor_id: of the learner, for its log.
        log_path: the file that the watcher writes its reason into.
        on_lost: is told why, once, when a rank is gone.
    """

    def __init__(self, actor_id: str, log_path: Path, on_lost: Callable[[str], None]) -> None:
        self._actor_id = actor_id
        self._log_path = log_path
        self._on_lost = on_lost
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._waiting: dict[tuple[int, int], asyncio.Future[Answer]] = {}
        """Futures of answers, by rank and number of the order."""
        self._is_leaving = False
        self.lost = ""
        """Why the group must end; empty while all ranks live."""

    async def start(self, ranks: range, *, rank_of_leader: int | None) -> None:
        """Start processes of these ranks and a watcher of them and this one.

        Args:
            ranks: to start.
            rank_of_leader: of this process; None: it is no rank.
        """
        for rank in ranks:
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
            self._processes[rank] = process
            reader, self._writers[rank] = await asyncio.open_connection(sock=ours)
            self._readers.append(asyncio.create_task(self._listen(rank, reader), name=f"rank {rank}"))
        leader = LEADER if rank_of_leader is None else rank_of_leader
        pids = {leader: os.getpid()} | {rank: process.pid for rank, process in self._processes.items()}
        plan = {"leader": leader, "ranks": pids, "log": str(self._log_path)}
        self._watcher = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "ring_async.actors.learner_ranks.watcher", json.dumps(plan)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        log.info("%s: ranks %s", self._actor_id, pids)

    def give(self, rank: int, given: Given) -> asyncio.Future[Answer]:
        """Give a rank an order. The future raises ActorFailedError once a rank is lost."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.lost:
            future.set_exception(ActorFailedError(self.lost))
        else:
            self._waiting[rank, given.number] = future
            self._writers[rank].write(frame(given))
        return future

    def lose(self, why: str) -> None:
        """Have the watcher end this host's ranks, the leader a moment later. Idempotent."""
        if self.lost or self._is_leaving:
            return
        self.lost = why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ActorFailedError(why))
        self._tell_watcher(f"lost {why}\n")
        self._on_lost(why)

    async def close(self) -> None:
        """End what is left; ranks that were told to leave have `LEAVE_S`. Where one is lost, the watcher ends all."""
        self._is_leaving = True
        if not self.lost:
            self._tell_watcher("end\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await asyncio.gather(*(asyncio.to_thread(one.wait, LEAVE_S) for one in self._processes.values()))
        for task in self._readers:
            task.cancel()
        for writer in self._writers.values():
            writer.close()
        watchers = [self._watcher] if self._watcher and not self.lost else []
        for process in (*self._processes.values(), *watchers):
            process.kill()
            await asyncio.to_thread(process.wait)

    def expect_leaving(self) -> None:
        """From now on the end of a rank is no loss."""
        self._is_leaving = True
        if not self.lost:
            self._tell_watcher("end\n")

    def _tell_watcher(self, text: str) -> None:
        if self._watcher is None or self._watcher.stdin is None or self._watcher.stdin.closed:
            return
        with contextlib.suppress(OSError):
            self._watcher.stdin.write(text.encode())
            self._watcher.stdin.close()

    async def _listen(self, rank: int, reader: asyncio.StreamReader) -> None:
        """Consumes answers / produces the ends of orders / waits for the next / freed by the rank's end."""
        while content := await read_frame(reader):
            said: Answer = answer_decoder.decode(content)
            future = self._waiting.pop((rank, said.number))
            if not future.done():
                future.set_result(said)
        self.lose(f"rank {rank} is gone")

"""A rank of the learner beside rank 0: a process that trains as rank 0 orders, on rows that it fetches by itself.

    rank 0 ──Fetch, Train, Publish, Capture …──▶ this process ──RequestBatch(data_rank)──▶ the planner of replay
           ◀──────────── Answer ─────────────────────┘

Owns: carrying out orders. Does not own a policy version, a checkpoint's name, or a place among the members of the
fleet: the controller knows one learner. Loop: consumes orders / produces answers / waits for the next / freed by rank
0, or by its end, which is this process's end too.

    python -m ring_async.actors.learner_ranks.follower FD         (started by `group`)
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ring_async.actors.base import REQUEST_TIMEOUT_S
from ring_async.actors.learner_ranks.orders import (
    BATCH_POLL_S,
    SHARED_ERRORS,
    Answer,
    Begin,
    Capture,
    Fetch,
    Given,
    Leave,
    Order,
    Publish,
    Restore,
    Train,
    Tune,
    Write,
    frame,
    given_decoder,
    read_frame,
)
from ring_async.actors.waits import ask_until_answered
from ring_async.batches import PackedBatch
from ring_async.config.load import config_from_mapping
from ring_async.core.rank_batches import RankShare
from ring_async.core.roster import PLANNER_ID
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.log_format import log_to_file
from ring_async.training.base import SavedState, TrainEngine
from ring_async.training.registry import make_trainer
from ring_async.transport.base import Outbox
from ring_async.transport.batch_wire import read_batch
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.messages.batches import BatchReady, RequestBatch

log = logging.getLogger(__name__)


class Follower:
    """Carries out the orders of rank 0. Args: `begin` is the first of them."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._config = config_from_mapping(json.loads(begin.config))
        self._transport = ZmqTransport(
            f"{begin.actor_id}.rank-{begin.rank}", self._config.transport, Path(begin.socket_dir), begin.keys
        )
        # One thread each: training goes in order, and neither publishing nor writing holds it up.
        self._compute, self._publishing, self._writing = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("compute", "publish", "write")
        )
        self._engine: TrainEngine | None = None
        self._planner: Outbox | None = None
        self._rows: dict[int, tuple[PackedBatch, RankShare | None]] = {}
        self._fetching: set[int] = set()
        self._saved: SavedState | None = None

    async def carry_out(self, order: Order) -> None:
        """Carry out one order.

        Raises:
            DivergedError, StorageError, ConfigError: as the train engine; other ranks meet the same.
        """
        loop = asyncio.get_running_loop()
        match order:
            case Begin():
                await loop.run_in_executor(self._compute, self._make_engine)
            case Fetch():
                await self._fetch(order)
            case Publish():
                # The snapshot must be taken before the next order changes the weights: on the compute thread.
                await loop.run_in_executor(self._compute, self._publish)
            case Write(folder):
                assert self._saved is not None
                await loop.run_in_executor(self._writing, self._saved.write, Path(folder))
            case _:
                await loop.run_in_executor(self._compute, self._compute_order, order)

    async def close(self) -> None:
        for executor in (self._compute, self._publishing, self._writing):
            executor.shutdown(wait=True)
        if self._planner is not None:
            await self._planner.close()
        await self._transport.close()

    # -- on the compute thread

    def _make_engine(self) -> None:
        self._engine = make_trainer(self._config, self._begin.rank, self._begin.store)

    def _publish(self) -> None:
        assert self._engine is not None
        snapshot = self._engine.snapshot()
        self._publishing.submit(snapshot.serve)

    def _compute_order(self, order: Order) -> None:
        engine = self._engine
        assert engine is not None
        match order:
            case Train(plan_number):
                engine.train_batch(*self._rows.pop(plan_number))
            case Tune(knobs):
                engine.tune(knobs)
            case Capture():
                self._saved = engine.capture()
            case Restore(folder):
                engine.restore(Path(folder))
            case Leave():
                engine.close()

    # -- rows

    async def _fetch(self, order: Fetch) -> None:
        if self._planner is None:
            self._planner = self._transport.connect(order.endpoint, peer=PLANNER_ID)
        elif self._planner.endpoint != order.endpoint:
            await self._planner.redirect(order.endpoint)
        if order.plan_number in self._fetching or order.plan_number in self._rows:
            return
        self._fetching.add(order.plan_number)
        planner = self._planner
        data_rank = self._config.learner.parallel.data_rank_of(self._begin.rank)
        ask = RequestBatch(order.plan_number, order.policy_version, BATCH_POLL_S, data_rank)
        while True:
            answer = await ask_until_answered(lambda: planner.request(ask, timeout_s=BATCH_POLL_S + REQUEST_TIMEOUT_S))
            if isinstance(answer.message, BatchReady):
                break
        self._rows[order.plan_number] = (read_batch(answer.buffers), answer.message.share)
        self._fetching.discard(order.plan_number)


async def follow(channel: socket.socket) -> None:
    """Carry out orders until the last one, or until rank 0 is gone."""
    reader, writer = await asyncio.open_connection(sock=channel)
    first = given_decoder.decode(await read_frame(reader))
    assert isinstance(first.order, Begin)
    log_to_file(RunDir(Path(first.order.run_dir)).logs / f"{first.order.actor_id}.rank-{first.order.rank}.log")
    follower = Follower(first.order)

    async def answer(given: Given) -> None:
        try:
            await follower.carry_out(given.order)
            said = Answer(given.number)
        except SHARED_ERRORS as error:
            said = Answer(given.number, type(error).__name__, str(error))
        except Exception:
            # Rank 0 may wait for this rank inside a collective: only the watcher can end that.
            log.exception("%s failed; this rank ends", type(given.order).__name__)
            logging.shutdown()
            os._exit(1)
        writer.write(frame(said))

    # Tasks begin in the order in which they are made, and so reach the compute thread in that order.
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(answer(first))]
    fetches: set[asyncio.Task[None]] = set()
    while content := await read_frame(reader):
        given = given_decoder.decode(content)
        tasks = [task for task in tasks if not task.done()]
        task = asyncio.create_task(answer(given))
        if isinstance(given.order, Fetch):  # it may wait for a batch that never comes
            fetches.add(task)
            task.add_done_callback(fetches.discard)
        else:
            tasks.append(task)
        if isinstance(given.order, Leave):
            for fetch in list(fetches):
                fetch.cancel()
            await asyncio.gather(*tasks)
            await writer.drain()
            await follower.close()
            return
    log.error("rank 0 is gone; this rank ends")
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    asyncio.run(follow(socket.socket(fileno=int(sys.argv[1]))))

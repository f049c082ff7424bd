"""The other ranks of a learner, as rank 0 sees them: started, given orders, watched, and ended.

    group = RankGroup(context, socket_dir, keys, hosts)
    await group.start()
    answered = group.order(Train(7))            # on its way to every other rank
    report = await on_compute(engine.train_batch, rows, share)
    await answered                              # all others have trained too

Owns: which host runs which ranks, orders to all of them, and the loss of the whole group. Does not own what ranks
compute, their processes (`local`, `host`), nor a rank's restart: a group that lost a rank is ended whole (`watcher`),
rank 0 included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ring_async.actors.base import ActorContext
from ring_async.actors.learner_ranks.host import RankHostLaunch
from ring_async.actors.learner_ranks.local import LEAVE_S, LocalRanks
from ring_async.actors.learner_ranks.orders import SHARED_ERRORS, Answer, Begin, Given, Leave, Order, Write
from ring_async.actors.learner_ranks.remote import KNOCK_S, KNOCK_TIMEOUT_S, RemoteRanks
from ring_async.config.load import dump_config
from ring_async.errors import ActorFailedError, RingAsyncError
from ring_async.training.ranks import serve_store, use_interface
from ring_async.transport.curve import CurveKeys

log = logging.getLogger(__name__)

T = TypeVar("T")

LOST_S = 2.0
"""How long after a failure of its own rank 0 listens for the end of another rank, which would explain it."""

_ERRORS = {error.__name__: error for error in SHARED_ERRORS}


class RankHosts(Protocol):
    """The learner's other hosts, where it may start one process each."""

    async def start(self, launch: RankHostLaunch) -> str:
        """Start the process of `launch.index`; returns the endpoint it listens at.

        Raises:
            ActorFailedError: it ended, and why.
        """
        ...

    async def close(self) -> None:
        """End the processes that are left."""
        ...


class RankGroup:
    """Ranks 1 … R − 1. Call it from the event loop.

    Args:
        context: of the learner.
        socket_dir: of the fleet on this host.
        keys: of the run.
        hosts: the learner's other hosts; None: it has one.

    Attributes:
        store: where all ranks find each other, as `RankPlace.store` takes it.
    """

    def __init__(
        self, context: ActorContext, socket_dir: Path, keys: CurveKeys | None, hosts: RankHosts | None = None
    ) -> None:
        self._context = context
        self._socket_dir = socket_dir
        self._keys = keys
        self._hosts = hosts
        self._parallel = context.config.learner.parallel
        self._folder = Path(tempfile.mkdtemp(prefix="ring-ranks-"))
        self.store = str(self._folder / "store")
        if self._parallel.hosts > 1:
            address = context.config.transport.address
            use_interface(address)
            self.store, self._store_server = serve_store(address, self._parallel.num_ranks)
        log_path = context.run_dir.logs / f"{context.spec.actor_id}.log"
        self._local = LocalRanks(context.spec.actor_id, log_path, log.error)
        self._remote: dict[int, RemoteRanks] = {}
        self._num_orders = 0

    async def start(self) -> asyncio.Future[None]:
        """Start the ranks and their watchers. Returns what is done once every rank has its model."""
        per_host = self._parallel.ranks_per_host
        await self._local.start(range(1, per_host), rank_of_leader=0)
        if self._parallel.hosts > 1:
            await self._start_hosts()
        spec, settings = self._context.spec, dump_config(self._context.config)
        run_dir, socket_dir = str(self._context.run_dir.path), str(self._socket_dir)
        return self._send(
            [
                Begin(rank, spec.actor_id, self.store, settings, run_dir, socket_dir, self._keys)
                for rank in range(1, self._parallel.num_ranks)
            ]
        )

    async def _start_hosts(self) -> None:
        assert self._hosts is not None
        context = self._context
        token = context.run_dir.path / f".learner-{secrets.token_hex(8)}"
        token.touch()
        settings, run_dir = dump_config(context.config), str(context.run_dir.path)
        try:
            endpoints = await asyncio.gather(
                *(
                    self._hosts.start(
                        RankHostLaunch(
                            index,
                            context.spec.actor_id,
                            settings,
                            run_dir,
                            token.name,
                            str(self._socket_dir),
                            self._keys,
                        )
                    )
                    for index in range(1, self._parallel.hosts)
                )
            )
        finally:
            token.unlink()
        for index, endpoint in enumerate(endpoints, 1):
            outbox = context.transport.connect(endpoint, peer=f"host {index} of {context.spec.actor_id}")
            self._remote[index] = RemoteRanks(index, outbox, self._local.lose)

    def order(self, order: Order) -> asyncio.Future[None]:
        """Give every rank an order. Returns what is done when all have carried it out.

        Awaiting it raises DivergedError, StorageError or ConfigError where a rank met one.
        """
        return self._send([order] * (self._parallel.num_ranks - 1))

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
            # Another host is noticed only once it has not answered for a while.
            await asyncio.wait({others}, timeout=LOST_S + (KNOCK_S + KNOCK_TIMEOUT_S if self._remote else 0.0))
        elif not self._local.lost:
            await asyncio.wait(parts)
        if self._local.lost:
            raise ActorFailedError(self._local.lost)
        result = own.result()
        others.result()
        return result

    async def close(self) -> None:
        """Let the ranks leave in order; end those that do not. Where one is lost, the watcher ends them all."""
        self._local.expect_leaving()
        if len(self._remote) == self._parallel.hosts - 1:  # else a host could not be started: nobody waits for orders
            with contextlib.suppress(TimeoutError, RingAsyncError):
                async with asyncio.timeout(LEAVE_S):
                    await self.order(Leave())
        for remote in self._remote.values():
            await remote.close()
        await self._local.close()
        if self._hosts is not None:
            await self._hosts.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, orders: list[Order]) -> asyncio.Future[None]:
        self._num_orders += 1
        answers = [
            self._place_of(rank).give(rank, Given(self._num_orders, order))  # type: ignore[arg-type]
            for rank, order in enumerate(orders, 1)
        ]
        all_done: asyncio.Future[None] = asyncio.ensure_future(self._all(answers))
        return all_done

    def _place_of(self, rank: int) -> LocalRanks | RemoteRanks:
        host = rank // self._parallel.ranks_per_host
        return self._remote[host] if host else self._local

    async def _all(self, answers: list[asyncio.Future[Answer]]) -> None:
        async def one(rank: int, answer: asyncio.Future[Answer]) -> None:
            try:
                said = await answer
            except ActorFailedError as error:
                self._local.lose(str(error))
                raise
            if said.kind:
                raise _ERRORS[said.kind](f"rank {rank}: {said.error}")

        await asyncio.gather(*(one(rank, answer) for rank, answer in enumerate(answers, 1)))

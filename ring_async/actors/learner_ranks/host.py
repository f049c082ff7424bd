"""The process that stands for rank 0 on another host of the learner: it starts that host's ranks and passes orders on.

    rank 0 ──GiveOrder, AreRanksAlive──▶ this process ──sockets──▶ ranks 8 … 15
           ◀─────RankAnswered──────────────────┘                  └▶ each fetches its own rows from replay

Owns: this host's ranks, and their end when rank 0 is silent. Does not own what orders mean.
Invariant: no rank outlives this process or a silence of rank 0 by more than a watcher's moment: this process ends, and
the watcher beside it ends the ranks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from ring_async.actors.learner_ranks.local import LocalRanks
from ring_async.actors.learner_ranks.orders import Answer, encode, given_decoder
from ring_async.config.load import config_from_mapping
from ring_async.errors import ActorFailedError, ConfigError
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.log_format import log_to_file
from ring_async.training.ranks import use_interface
from ring_async.transport.base import Delivery
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import CurveKeys
from ring_async.transport.messages.base import Done
from ring_async.transport.messages.ranks import AreRanksAlive, GiveOrder, RankAnswered

log = logging.getLogger(__name__)

SILENCE_S = 15.0
"""Rank 0 knocks every second. Two such silences in a row end this host's ranks."""


class RankHostLaunch(msgspec.Struct, frozen=True):
    """What a host of the learner must know to start its ranks.

    Attributes:
        index: of the host among the learner's, from 1.
        actor_id: of the learner.
        config: the resolved configuration, as JSON.
        run_dir: of the run, on a disk that all hosts of the learner share.
        token: name of a file in it that proves this.
        socket_dir: for sockets.
        keys: CURVE keys of the run; None where the transport has none.
    """

    index: int
    actor_id: str
    config: str
    run_dir: str
    token: str
    socket_dir: str
    keys: CurveKeys | None


class RankHost:
    """Stands for rank 0 on one other host.

    Args:
        launch: what to start.
        address: of this host, as the cluster knows it.
    """

    def __init__(self, launch: RankHostLaunch, address: str) -> None:
        self._launch = launch
        self._address = address
        self._answering: set[asyncio.Task[None]] = set()

    async def live(self, announce: Callable[[str], None]) -> None:
        """Start the ranks, and pass orders on until rank 0 says the last one.

        Args:
            announce: is told the endpoint that rank 0 shall connect to.

        Raises:
            ConfigError: the run's folder is not shared with rank 0's host.
            ActorFailedError: a rank is gone, or rank 0 is silent.
        """
        launch, run_dir = self._launch, RunDir(Path(self._launch.run_dir))
        if not (run_dir.path / launch.token).is_file():
            raise ConfigError(
                f"run.dir: {run_dir.path} on {self._address} is not that of the learner's first host; with "
                "learner.parallel.hosts above 1 it must lie on a disk that all of them share"
            )
        name = f"{launch.actor_id}.host-{launch.index}"
        log_to_file(run_dir.logs / f"{name}.log")
        use_interface(self._address)
        config = config_from_mapping(msgspec.json.decode(launch.config)).at(self._address)
        own = config.transport.model_copy(update={"host": self._address})
        transport = ZmqTransport(name, own, Path(launch.socket_dir), launch.keys)
        ranks = LocalRanks(name, run_dir.logs / f"{name}.log", log.error)
        try:
            inbox = transport.open_inbox("ranks")
            first = launch.index * config.learner.parallel.ranks_per_host
            await ranks.start(range(first, first + config.learner.parallel.ranks_per_host), rank_of_leader=None)
            announce(inbox.endpoint)
            num_left = config.learner.parallel.ranks_per_host
            num_silences = 0
            while num_left:
                try:
                    delivery = await asyncio.wait_for(inbox.receive(), SILENCE_S)
                except TimeoutError:
                    num_silences += 1
                    if num_silences > 1:
                        ranks.lose(f"rank 0 has been silent for {2 * SILENCE_S:.0f} s")
                        raise ActorFailedError(f"{name}: {ranks.lost}") from None
                    continue
                num_silences = 0
                num_left -= self._take(delivery, ranks)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await asyncio.gather(*self._answering)
        finally:
            await ranks.close()
            await transport.close()

    def _take(self, delivery: Delivery, ranks: LocalRanks) -> bool:
        """Pass one message on; returns whether it is a rank's last order."""
        match delivery.message:
            case GiveOrder(rank, content, is_last):
                if is_last:
                    ranks.expect_leaving()
                future = ranks.give(rank, given_decoder.decode(content))
                task = asyncio.create_task(_answer(delivery, future))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                return is_last
            case AreRanksAlive():
                if ranks.lost:
                    delivery.refuse(ranks.lost)
                else:
                    delivery.reply(Done())
            case other:
                delivery.refuse(f"{type(other).__name__} is no word for a host of the learner")
        return False


async def _answer(delivery: Delivery, future: asyncio.Future[Answer]) -> None:
    try:
        delivery.reply(RankAnswered(encode(await future)))
    except ActorFailedError as error:
        delivery.refuse(str(error))

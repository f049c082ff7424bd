"""A learner over two hosts, which are groups of processes of this machine that share nothing but sockets and a disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from rank_host_process import HostsAsProcesses
from rank_process import do_task, make_batch, settings
from ring_async.actors.base import ActorContext
from ring_async.actors.learner_ranks.group import RankGroup
from ring_async.actors.learner_ranks.orders import Capture, Fetch, Publish, Train
from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.core.rank_batches import RankShare, batch_of_rank
from ring_async.core.roster import PLANNER_ID, ActorSpec, Role
from ring_async.errors import ActorFailedError
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.base import TrainEngine
from ring_async.training.ranks import alone
from ring_async.training.registry import make_trainer
from ring_async.transport.batch_wire import batch_buffers
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.messages.batches import BatchReady, RequestBatch
from ring_async.types import PolicyVersion
from tiny_models import VOCABULARY

NUM_RANKS = 2
pytestmark = pytest.mark.timeout(240)


class Learner:
    """Rank 0 of a learner on two hosts, and the planner of its batches."""

    def __init__(self, group: RankGroup, hosts: HostsAsProcesses, engine: TrainEngine, planner: str) -> None:
        self.group = group
        self.hosts = hosts
        self.engine = engine
        self.planner = planner

    async def on_all(self, order: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Do something on this rank and order it on the others, as the learner does."""
        others, own = self.group.order(order), asyncio.ensure_future(asyncio.to_thread(function, *args))
        return await self.group.together(own, others)

    async def train(self, number: int) -> dict[str, Any]:
        await self.group.order(Fetch(number, PolicyVersion(0, number - 1), self.planner))
        report = await self.on_all(Train(number), self.engine.train_batch, *rows_of(number, 0))
        return report.metrics


def rows_of(plan_number: int, data_rank: int) -> tuple[PackedBatch, RankShare]:
    """A data-parallel rank's rows of a batch."""
    return batch_of_rank(make_batch(plan_number, NUM_RANKS), data_rank)


async def plan(transport: ZmqTransport, announced: asyncio.Future[str], asked: list[int | None]) -> None:
    """Answer as the planner of replay would: each rank gets its own rows."""
    inbox = transport.open_inbox("data")
    announced.set_result(inbox.endpoint)
    while True:
        delivery = await inbox.receive()
        request = delivery.message
        assert isinstance(request, RequestBatch)
        asked.append(request.data_rank)
        rows, share = rows_of(request.plan_number, request.data_rank or 0)
        delivery.reply(BatchReady(request.plan_number, share), batch_buffers(rows))


def configured(tmp_path: Path, model: Path) -> Config:
    overrides = {"learner__parallel__data": NUM_RANKS, "learner__parallel__shard": 1, "learner__parallel__hosts": 2}
    across = {"transport__kind": "tcp", "transport__host": "127.0.0.1", "weights__channel": "zmq"}
    return make_config(**settings(NUM_RANKS, **overrides, **across, model__path=str(model), run__dir=str(tmp_path)))


@asynccontextmanager
async def learner(tmp_path: Path, model: Path, asked: list[int | None]) -> AsyncIterator[Learner]:
    config = configured(tmp_path, model)
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    keys, socket_dir = CurveKeys.make_run_keys(run_dir.keys), make_socket_dir()
    transports = [ZmqTransport(name, config.transport, socket_dir, keys) for name in ("learner-0", PLANNER_ID)]
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    planning = asyncio.create_task(plan(transports[1], announced, asked))
    context = ActorContext(
        ActorSpec("learner-0", Role.LEARNER, 0), config, run_dir, transports[0], "", Tracer(None, "learner-0")
    )
    hosts = HostsAsProcesses()
    group = RankGroup(context, socket_dir, keys, hosts)
    try:
        started = await group.start()
        engine = await asyncio.to_thread(make_trainer, config, 0, group.store)
        await started
        yield Learner(group, hosts, engine, await announced)
    finally:
        await group.close()
        planning.cancel()
        with suppress(asyncio.CancelledError):
            await planning
        for transport in transports:
            await transport.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        shutil.rmtree(socket_dir)


@pytest.mark.may_leak("torch keeps the store and the groups of a mesh open until the process ends")
def test_two_hosts_learn_what_one_rank_learns_and_write_one_checkpoint(tmp_path: Path):
    model = write_tiny_llama(tmp_path / "model", vocabulary=VOCABULARY)
    asked: list[int | None] = []

    async def run() -> list[dict[str, Any]]:
        async with learner(tmp_path, model, asked) as own:
            found = [await own.train(number) for number in (1, 2)]
            snapshot = await own.on_all(Publish(), own.engine.snapshot)
            assert len(dict(snapshot.tensors())) == len(snapshot.shapes)
            snapshot.close()
            saved = await own.on_all(Capture(), own.engine.capture)
            folder = tmp_path / "saved"
            folder.mkdir()
            others = asyncio.ensure_future(own.group.write(folder))
            await asyncio.to_thread(saved.write, folder)
            await others
            return found

    found = asyncio.run(run())
    assert asked == [1, 1]  # rank 0's rows come from elsewhere in this test; the other leader asked for its own
    expected, _ = do_task({"model": str(model), "seeds": [1, 2]}, alone())
    for two, one in zip(found, expected, strict=True):
        assert two["loss_tokens"] == one["loss_tokens"] == 66
        for number in ("grad_norm", "surrogate", "entropy", "reward_mean"):
            assert two[number] == pytest.approx(one[number], abs=1e-4)
    assert len(list((tmp_path / "saved").glob("model-*-of-00002.safetensors"))) == 2
    assert list((tmp_path / "run").glob(".learner-*")) == []


def test_a_rank_that_dies_on_the_other_host_ends_the_learner(tmp_path: Path):
    model = write_tiny_llama(tmp_path / "model", vocabulary=VOCABULARY)
    lost: list[int] = []

    async def run() -> None:
        async with learner(tmp_path, model, []) as own:
            await own.train(1)
            (host,) = own.hosts.processes.values()
            ranks = [one for one in psutil.Process(host.pid).children() if "follower" in " ".join(one.cmdline())]
            lost.extend((host.pid, *(one.pid for one in ranks)))
            # The watcher of this host would end rank 0, which is this test.
            own.group._local.expect_leaving()
            os.kill(ranks[0].pid, signal.SIGKILL)
            await own.group.order(Capture())

    with pytest.raises(ActorFailedError, match=r"host 1 of the learner: .*rank 1 is gone"):
        asyncio.run(run())
    assert len(lost) == 2
    assert not any(psutil.pid_exists(pid) for pid in lost)

"""A replay actor in a process of its own, and a rig that plays everybody around it: controller, reward, learner.

    python replay_process.py RUN_DIR SOCKET_DIR CONTROLLER_ENDPOINT ACTOR_ID INCARNATION

runs the actor. `ReplayRig` starts it, kills it, starts it again, and keeps the run's journal as the controller would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from ring_async.actors.base import ActorContext
from ring_async.actors.replay.planner import shard_of
from ring_async.actors.replay.replay import Replay
from ring_async.config.load import config_from_mapping
from ring_async.config.schema import Config
from ring_async.core.roster import ActorSpec
from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules, AdmissionState
from ring_async.core.work.ledger_records import GroupReserved, StatesMoved
from ring_async.errors import PeerTimeoutError, RefusedError
from ring_async.records.figures import BufferTotals, total
from ring_async.storage.journal import Journal
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config_mapping, make_group, make_reservation
from ring_async.transport.batch_wire import read_batch
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.batches import BatchNotReady, BatchReady, RequestBatch
from ring_async.transport.messages.fleet import (
    Heartbeat,
    HeartbeatSeen,
    Member,
    MembersChanged,
    Register,
    Registered,
)
from ring_async.transport.messages.versions import CheckpointCovered
from ring_async.transport.messages.work import BufferReported, GroupScored, TrajectoriesMoved
from ring_async.types import Group, PolicyVersion

TOKEN_BUDGET = 512
GROUP_SIZE = 4
MAX_TOKENS = 96


def rig_config(num_shards: int = 1, num_ranks: int = 1) -> dict[str, object]:
    return make_config_mapping(
        budget={"token_budget": TOKEN_BUDGET},
        rollout={"group_size": GROUP_SIZE, "max_tokens": MAX_TOKENS},
        learner={"token_capacity": 256, "parallel": {"data": num_ranks}},
        replay={"num": num_shards, "map_size_bytes": 256 << 20, "commit_interval_s": 0.002},
        monitoring={"trace": False},
        placement={"start_timeout_s": 60.0},
    )


class ReplayRig:
    """Everybody around replay. The learner trains at once whatever it is given, and remembers which tokens."""

    def __init__(self, folder: Path, *, num_shards: int = 1, num_ranks: int = 1, seed: int = 0) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.create()
        self.config: Config = config_from_mapping(rig_config(num_shards, num_ranks), "rig")
        self.run_dir.config.write_text(json.dumps(rig_config(num_shards, num_ranks)))
        self.rng = np.random.default_rng(seed)
        self.journal = Journal(self.run_dir.journal, max_file_bytes=256 << 10)
        self.socket_dir = make_socket_dir()
        self.transport = ZmqTransport("rig", self.config.transport, self.socket_dir, None)
        self.control = self.transport.open_inbox("control")
        self.shards = [f"replay-{index}" for index in range(num_shards)]
        self.members: dict[str, Member] = {}
        self.registered: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.num_starts: dict[str, int] = dict.fromkeys(self.shards, 0)
        self.data_links = {shard: self.transport.connect(self._endpoint(shard), peer=shard) for shard in self.shards}
        self.control_links = {
            shard: self.transport.connect(self._endpoint(shard, "control"), peer=shard) for shard in self.shards
        }
        self.reports: dict[str, BufferTotals] = {}
        self.limiter = AdmissionLimiter(
            AdmissionRules(TOKEN_BUDGET, self.config.max_staleness, GROUP_SIZE * MAX_TOKENS),
            AdmissionState(group_tokens=110.0, no_signal_share=0.15),
        )
        self.acknowledged: set[str] = set()
        self.sending: set[asyncio.Task[None]] = set()
        self.news: set[asyncio.Task[None]] = set()
        self.trained: dict[int, tuple[tuple[str, int, int], ...]] = {}
        self.promised: dict[int, tuple[tuple[str, int, int], ...]] = {}
        """The plans that were seen in a log, by number."""
        self.version = PolicyVersion(0, 0)
        self.covered = 0
        self.num_groups = 0
        self.last_reason = ""
        self.refusals: list[str] = []

    def _endpoint(self, shard: str, name: str = "data") -> str:
        return f"ipc://{self.socket_dir}/not-yet-{shard}-{name}"

    # -- processes

    def start(self, shard: str) -> None:
        self.registered[shard].clear()
        arguments = [str(self.run_dir.path), str(self.socket_dir), self.control.endpoint, shard]
        self.processes[shard] = subprocess.Popen(
            [sys.executable, __file__, *arguments, str(self.num_starts[shard])],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.num_starts[shard] += 1

    def kill(self, shard: str) -> None:
        self.processes[shard].kill()
        self.processes[shard].wait()
        if self.members.pop(shard, None):
            self._tell_members()

    async def up(self, shard: str) -> None:
        async with asyncio.timeout(60.0):
            await self.registered[shard].wait()

    # -- the controller's part

    async def serve(self) -> None:
        while True:
            delivery = await self.control.receive()
            match delivery.message:
                case Register(member):
                    await self._register(member)
                    delivery.reply(Registered(tuple(self.members.values()), None, False, "", 0))
                case Heartbeat():
                    delivery.reply(HeartbeatSeen(is_known=True))
                case TrajectoriesMoved(states):
                    self.journal.append(StatesMoved(states))
                    delivery.ack()
                case BufferReported() as report:
                    self.reports[delivery.sender] = report.totals
                    held = total(self.reports.values())
                    self.limiter.observe_buffer(
                        held.buffer_tokens, held.next_plan_number, is_learner_waiting=held.is_learner_waiting
                    )
                    delivery.ack()
                case other:
                    delivery.refuse(f"the rig does not take {type(other).__name__}")

    async def _register(self, member: Member) -> None:
        shard = member.actor_id
        self.members[shard] = member
        await self.data_links[shard].redirect(member.data_endpoint)
        await self.control_links[shard].redirect(member.control_endpoint)
        self.registered[shard].set()
        self._tell_members()

    def _tell_members(self) -> None:
        task = asyncio.create_task(self._tell(MembersChanged(tuple(self.members.values()))))
        self.news.add(task)
        task.add_done_callback(self.news.discard)

    async def _tell(self, news: Message) -> None:
        for shard in list(self.members):
            with contextlib.suppress(PeerTimeoutError):
                await self.control_links[shard].request(news, timeout_s=2.0)

    # -- the reward actors' part

    async def feed(self) -> None:
        """Scored groups, as many as the limiter allows; long tails, some groups without a signal."""
        while True:
            if not self.limiter.grantable(len(self.sending)).num_groups:
                await asyncio.sleep(0.002)
                continue
            group_id = f"sums-{self.num_groups:08d}"
            self.num_groups += 1
            lengths = np.clip(self.rng.lognormal(3.0, 0.8, GROUP_SIZE).astype(int), 2, MAX_TOKENS).tolist()
            rewards = [0.0] * GROUP_SIZE if self.rng.random() < 0.15 else [1.0, 0.0, 0.0, 1.0]
            group = make_group(group_id, rewards=rewards, lengths=lengths, versions=self.version)
            self.journal.append(GroupReserved(make_reservation(group_id, group_size=GROUP_SIZE), "rollout-0"))
            task = asyncio.create_task(self._deliver(group))
            self.sending.add(task)
            task.add_done_callback(self.sending.discard)

    async def _deliver(self, group: Group) -> None:
        """A shard that is away must not hold up the groups of the others."""
        group_id = group.header.group_id
        link = self.data_links[shard_of(group_id, len(self.shards))]
        try:
            await (await link.send(GroupScored(group.header), group.buffers, message_id=group_id))
            self.acknowledged.add(group_id)
        except RefusedError as refusal:
            self.refusals.append(f"{group_id}: {refusal}")

    # -- the learner's part

    async def train(self) -> None:
        while True:
            number = self.version.number + 1
            lineage = self.version.incarnation
            ask = RequestBatch(number, self.version, wait_s=0.2)
            try:
                answer = await self.data_links["replay-0"].request(ask, timeout_s=1.0)
            except PeerTimeoutError:
                continue
            if lineage != self.version.incarnation:
                continue  # the learner "crashed" meanwhile
            match answer.message:
                case BatchReady():
                    batch = read_batch(answer.buffers)
                    plan = batch.plan
                    assert int(batch.loss_mask.sum()) == TOKEN_BUDGET
                    intervals = tuple((s.trajectory_id, s.interval.start, s.interval.end) for s in plan.sequences)
                    assert self.trained.get(number, intervals) == intervals, f"batch {number} changed"
                    self.trained[number] = intervals
                    self.version = PolicyVersion(lineage, number)
                    self.limiter.observe_version(self.version)
                    if number % 10 == 0:
                        await self.cover(number)
                case BatchNotReady(reason):
                    self.last_reason = reason

    def crash_learner(self) -> None:
        """Back to the last checkpoint, as a new incarnation."""
        self.version = PolicyVersion(self.version.incarnation + 1, self.covered)
        self.limiter.observe_version(self.version)

    async def cover(self, number: int) -> None:
        self.covered = number
        for link in self.control_links.values():
            with contextlib.suppress(PeerTimeoutError):
                await link.request(CheckpointCovered(number), timeout_s=1.0)

    # -- life

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(part()) for part in (self.serve, self.feed, self.train)]
        try:
            yield
        finally:
            errors = [error for task in tasks if task.done() and (error := task.exception())]
            tasks += [*self.sending, *self.news]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for shard in self.processes:
                self.kill(shard)
            for link in (*self.data_links.values(), *self.control_links.values()):
                await link.close()
            await self.control.close()
            await self.transport.close()
            self.journal.close()
            if errors:
                raise ExceptionGroup("parts of the rig failed", errors)


def main() -> None:
    """Be the actor."""
    run_dir, socket_dir, controller_endpoint, actor_id, incarnation = sys.argv[1:]
    logging.basicConfig(filename=RunDir(Path(run_dir)).logs / f"{actor_id}.log", level=logging.INFO)
    config = config_from_mapping(json.loads(RunDir(Path(run_dir)).config.read_text()), "rig")

    async def live() -> None:
        context = ActorContext(
            spec=ActorSpec(actor_id, "replay", int(incarnation)),
            config=config,
            run_dir=RunDir(Path(run_dir)),
            transport=ZmqTransport(actor_id, config.transport, Path(socket_dir), None),
            controller_endpoint=controller_endpoint,
            tracer=Tracer(None, actor_id),
        )
        await Replay(context).live()

    asyncio.run(live())


if __name__ == "__main__":
    main()

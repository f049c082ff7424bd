"""What one event costs as a fleet grows: with 1,000, 10,000 and 100,000 groups buffered, members and waiting requests.

    make bench-scale                                     (about three minutes)
    python benchmarks/bench_scale.py --groups 500 1000 2000 --rounds 5     (a rehearsal)

Groups have 8 responses of 1,000 tokens, a batch takes 256 groups. Each round does with every size what one batch of a
run does: groups arrive, the shard evicts, the planner hears of it, plans, the shard follows, a checkpoint covers the
batch; the ledger follows all of it. What is buffered stays the same from round to round. The sizes take turns within a
round. A figure is CPU time, the least over all rounds: the machine is shared, and what it adds is noise.

Every row has one bar: the largest size costs at most twice what the smallest does. Messages are measured in bytes.
Writes build/bench/scale.json, with the table.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bars import Bar, write_bars
from ring_async.actors.controller.member_list import MemberList
from ring_async.actors.controller.work_requests import WorkRequests
from ring_async.config.schema import TransportSection
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.offers import Mirror, Offer
from ring_async.core.replay.progress import GroupRecord
from ring_async.core.replay.transitions import states_of
from ring_async.core.roster import Role
from ring_async.core.staleness import Lineage
from ring_async.core.work.admission import Grant
from ring_async.core.work.leases import LeaseTable
from ring_async.core.work.ledger import Ledger
from ring_async.core.work.ledger_records import GroupReserved, StatesMoved
from ring_async.testing.builders import make_group, make_reservation
from ring_async.transport.codec import Codec
from ring_async.transport.messages.fleet import Member
from ring_async.transport.messages.work import ReserveGroups
from ring_async.types import PolicyVersion

GROUP_SIZE, NUM_TOKENS, GROUPS_PER_BATCH = 8, 1_000, 256
MAX_RATIO = 2.0
NUM_OWNERS = 1_000

BASE = make_group("g", rewards=[i % 2 for i in range(GROUP_SIZE)], lengths=NUM_TOKENS, max_tokens=2 * NUM_TOKENS).header


@dataclass
class Measured:
    """The figures of one size, by operation: all that were taken, in the row's unit."""

    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def timed(self, operation: str, num: int = 1) -> Iterator[None]:
        """CPU time of what happens within, per one of `num`, in µs."""
        began_s = time.thread_time()
        yield
        self.figures[operation].append((time.thread_time() - began_s) * 1e6 / num)

    def note(self, operation: str, value: float) -> None:
        self.figures[operation].append(value)

    def least(self, operation: str) -> float:
        return min(self.figures[operation])


def record(number: int, version: int) -> GroupRecord:
    """A group's record; building it is not what is measured."""
    group_id = f"math-{number:08d}"
    segments = (msgspec.structs.replace(BASE.trajectories[0].segments[0], policy_version=PolicyVersion(0, version)),)
    trajectories = tuple(
        msgspec.structs.replace(one, trajectory_id=f"{group_id}/{k}", segments=segments)
        for k, one in enumerate(BASE.trajectories)
    )
    header = msgspec.structs.replace(BASE, group_id=group_id, trajectories=trajectories)
    return GroupRecord(header, (1.0, -1.0) * (GROUP_SIZE // 2), number + 1, (None,) * GROUP_SIZE)


class Run:
    """A shard, its mirror at a planner, the ledger and the leases of a run with `num_groups` groups buffered."""

    def __init__(self, num_groups: int) -> None:
        self.measured = Measured()
        rules = BufferRules(
            GROUPS_PER_BATCH * GROUP_SIZE * NUM_TOKENS, 4_096, max_staleness=10**6, max_buffer_tokens=10**12,
            num_shards=2,
        )  # fmt: skip
        self.shard = ReplayBuffer(rules, stream="bench")
        self.planner = ReplayBuffer(rules, stream="planner")
        self.mirror = Mirror(rules, Lineage())
        self.ledger, self.leases = Ledger(), LeaseTable()
        self.number = 0
        while self.number < num_groups:
            self.arrive(min(GROUPS_PER_BATCH, num_groups - self.number), Measured())
        for index in range(num_groups):  # under way, beside what is buffered
            self.leases.issue(make_reservation(f"open-{index}"), f"rollout-{index % NUM_OWNERS}", 0.0)
        self.ledger.check_changes()
        while self.hear(Measured()).has_more:
            pass

    def arrive(self, num: int, measured: Measured) -> None:
        records = [record(self.number + i, version=(self.number + i) // 1_024) for i in range(num)]
        self.number += num
        reservations = [make_reservation(one.header.group_id, group_size=GROUP_SIZE) for one in records]
        with measured.timed("lease: issued", num):
            for one in reservations:
                self.leases.issue(one, "rollout-x", 0.0)
        with measured.timed("ledger: group reserved", num):
            for one in reservations:
                self.ledger.apply(GroupReserved(one, "rollout-x"))
        with measured.timed("replay: group taken in", num):
            for one in records:
                self.shard.add(one, self.shard.admit(one, [False] * GROUP_SIZE))
        moved = [StatesMoved(tuple(states_of(r.header, self.shard.progress(r.header.group_id)))) for r in records]
        with measured.timed("ledger: group buffered", num):
            for states in moved:
                self.ledger.apply(states)
        with measured.timed("lease: completed", num):
            for one in reservations:
                assert self.leases.complete(one.group_id)

    def hear(self, measured: Measured) -> Offer:
        with measured.timed("shard: its offer for a batch"):
            encoded = msgspec.msgpack.encode(self.shard.offer(self.mirror.mark))
        measured.note("shard: largest message of an offer, bytes", len(encoded))
        with measured.timed("planner: takes an offer in"):
            offer = msgspec.msgpack.decode(encoded, type=Offer)
            self.mirror.take_in(offer)
        return offer

    def round(self) -> None:
        """What happens while one batch is trained."""
        measured, shard, planner = self.measured, self.shard, self.planner
        number = shard.last_plan + 1
        learner = PolicyVersion(0, self.number // 1_024)
        self.arrive(GROUPS_PER_BATCH, measured)
        with measured.timed("controller: proof of the ledger, after a batch"):
            self.ledger.check_changes()
        with measured.timed("controller: proof of the ledger, nothing new"):
            self.ledger.check_changes()
        with measured.timed("controller: leases that run out"):
            assert not self.leases.expire(1.0)
        with measured.timed("controller: a rollout without leases is lost"):
            assert not self.leases.owner_lost("nobody", "owner_lost")
        with measured.timed("replay: report of the buffer"):
            held = (shard.num_open, shard.trainable_tokens, shard.eligible_tokens)
        assert all(held)
        with measured.timed("replay: eviction before a batch"):
            change = shard.evict(learner)
        shard.apply(change)
        while self.hear(measured).has_more:
            pass
        with measured.timed("planner: plan of 256 groups"):
            planned = planner.plan(number, learner, others=[self.mirror.groups])
        planner.apply(planned)
        entry = planned.entry
        taken = [
            (*s.trajectory_id.rsplit("/", 1), n) for s, n in zip(entry.plan.sequences, entry.loss_tokens, strict=True)
        ]
        with measured.timed("replay: follows the plan"):
            change = shard.advance(number, [(g, int(k), n) for g, k, n in taken], 1, carries=True)
            shard.apply(change)
        self.ledger.apply(StatesMoved(change.moved))
        with measured.timed("replay: checkpoint covers the batch"):
            change = shard.cover(number)
            shard.apply(change)
        self.ledger.apply(StatesMoved(change.moved))


def wire_sizes(num_members: int) -> float:
    """Bytes of the message that tells one member that another one restarted."""
    members = MemberList(0)
    fleet = [
        Member(f"rollout-{i}", Role.ROLLOUT, 0, 1, f"host-{i % 100}", f"tcp://10.0.{i // 256}.{i % 256}:43210")
        for i in range(num_members)
    ]
    members.update(fleet)
    mark = members.mark
    members.update([msgspec.structs.replace(fleet[0], incarnation=1), *fleet[1:]])
    return len(Codec(TransportSection()).encode_message(members.since(mark)))


async def waiting_tick(num_waiting: int) -> float:
    """CPU µs of one tick of the controller while requests of so many rollouts wait, and nothing can be granted."""

    async def make_ahead(number: int) -> None:
        """No source is slow."""

    rollouts = [f"rollout-{i}" for i in range(num_waiting)]
    dispatcher: Any = SimpleNamespace(
        prompts=SimpleNamespace(make_ahead=make_ahead), grantable=lambda version: Grant(0, "full"),
        leases=SimpleNamespace(num_open=0, num_held=lambda owner: 0),
    )  # fmt: skip
    wanted = SimpleNamespace(is_leaving=lambda actor_id: False, num_wanted=lambda role: num_waiting)
    fleet: Any = SimpleNamespace(members=set(rollouts), wanted=wanted)
    life: Any = SimpleNamespace(is_stopping=False, is_paused=False)
    requests = WorkRequests(dispatcher, fleet, life, on_given_up=lambda given_up: None)
    granting = asyncio.create_task(requests.run())
    deliveries: list[Any] = [SimpleNamespace(sender=one, reply=lambda message: None) for one in rollouts]
    asking = [asyncio.create_task(requests.answer(one, ReserveGroups(1, None))) for one in deliveries]
    await asyncio.sleep(0.05)
    least = float("inf")
    for _ in range(200):
        began_s = time.thread_time()
        requests.look_again()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        least = min(least, (time.thread_time() - began_s) * 1e6)
    for task in (granting, *asking):
        task.cancel()
    await asyncio.gather(granting, *asking, return_exceptions=True)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--members", type=int, nargs="+", default=[100, 1_000, 4_000])
    parser.add_argument("--waiting", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()

    runs = [Run(num) for num in track(options.groups, "groups are buffered")]
    gc.collect()
    gc.freeze()  # a walk of the garbage collector over all objects is no part of any operation
    for _ in track(range(options.rounds), "rounds"):
        for one in runs:
            one.round()
    rows = {name: (options.groups, [one.measured.least(name) for one in runs]) for name in runs[0].measured.figures}
    largest = "shard: largest message of an offer, bytes"
    rows[largest] = (options.groups, [max(one.measured.figures[largest]) for one in runs])
    rows["members: news of a change, bytes"] = (options.members, [wire_sizes(num) for num in options.members])
    ticks = [asyncio.run(waiting_tick(num)) for num in options.waiting]
    rows["controller: a tick while requests wait"] = (options.waiting, ticks)

    table = Table(
        "operation", "small", "medium", "large", "large / small", title="CPU time of an event, size of a message"
    )
    bars = {}
    for name, (_, values) in sorted(rows.items()):
        bars[name] = Bar(values[-1] / values[0], MAX_RATIO, "large / small", is_upper=True)
        unit = "" if name.endswith("bytes") else " µs"
        table.add_row(name, *(f"{value:,.1f}{unit}" for value in values), f"{bars[name].value:.2f}")
    Console(width=150).print(table)
    write_bars("scale", bars, table={name: dict(zip(map(str, s), v, strict=True)) for name, (s, v) in rows.items()})


if __name__ == "__main__":
    main()

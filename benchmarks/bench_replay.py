"""Replay: how fast groups become durable, planned and read, beside bare LMDB and TransferQueue in the same run.

    make bench-replay                              (about three minutes)
    python benchmarks/bench_replay.py --memory-s 600

Groups of 8 × 2,048 tokens. What is measured:

* put: one synced commit of a batch of groups that also deletes as many old ones; the same values, batches and deletions
  through bare LMDB, in turn with ours.
* cycle: put (four commits to a batch plan) → score acknowledged → plan logged → every planned group read and its
  checksum proven, durable, in one process; bare LMDB does its puts and reads every value. "packed" goes on to fill the
  learner's rows.
* over ZMQ: the cycle, packed, with the replay actor in its own process, groups sent one by one; TransferQueue is given
  its groups one by one too, and also (for information) 64 at a time.
* memory: anonymous memory of a process whose buffer is four times its memory budget, after every second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb
import msgspec
from rich.console import Console
from rich.table import Table

from bars import Bar, write_bars
from peer_packages import peer_environment
from replay_over_zmq import cycle_over_zmq
from ring_async.core.advantages import AdvantageRules
from ring_async.core.ids import split_id
from ring_async.core.packing import padding_fraction
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.progress import make_record
from ring_async.core.replay.token_budget import Shortfall
from ring_async.storage.checked_value import ValueScratch
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group
from ring_async.types import Group, PolicyVersion

GROUP_SIZE, NUM_TOKENS, NUM_PROMPT_TOKENS = 8, 2_048, 64
GROUP_TOKENS = GROUP_SIZE * NUM_TOKENS
TOKEN_CAPACITY = 4 * (NUM_TOKENS + NUM_PROMPT_TOKENS)
MAP_SIZE_BYTES = 4 << 30
ROUNDS = 5
PUTS_PER_PLAN = 4
WARM_UP_PLANS = 3
"""Until the files have grown and pages are used again."""


def make_template() -> Group:
    return make_group(
        "template",
        rewards=[1.0, 0.0] * (GROUP_SIZE // 2),
        lengths=NUM_TOKENS,
        num_prompt_tokens=NUM_PROMPT_TOKENS,
        max_tokens=NUM_TOKENS,
    )


def renamed(template: Group, number: int, version: int) -> Group:
    """The template under another name: building arrays is not what is measured."""
    group_id = f"bench-{number:08d}"
    shell = make_group(group_id, rewards=[1.0, 0.0] * (GROUP_SIZE // 2), lengths=1, num_prompt_tokens=1)
    trajectories = tuple(
        msgspec.structs.replace(
            old, trajectory_id=new.trajectory_id,
            segments=(msgspec.structs.replace(old.segments[0], policy_version=PolicyVersion(0, version)),),
        )
        for old, new in zip(template.header.trajectories, shell.header.trajectories, strict=True)
    )  # fmt: skip
    header = msgspec.structs.replace(template.header, group_id=group_id, trajectories=trajectories)
    return Group(header, *template.buffers)  # type: ignore[arg-type]


def open_shard(folder: Path, groups_per_batch: int) -> ReplayShard:
    rules = BufferRules(token_budget=groups_per_batch * GROUP_TOKENS, token_capacity=TOKEN_CAPACITY, max_staleness=4)
    return ReplayShard(ReplayStore(folder, MAP_SIZE_BYTES), rules, AdvantageRules())


class BareLmdb:
    """The least that could be durable: the same bytes, synced, old ones deleted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.environment = lmdb.open(str(folder), map_size=MAP_SIZE_BYTES, max_dbs=1)
        self.table = self.environment.open_db(b"groups")

    def put(self, values: dict[bytes, bytes], deleted: list[bytes]) -> None:
        with self.environment.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value, db=self.table)
            for key in deleted:
                transaction.delete(key, db=self.table)

    def get(self, keys: list[bytes]) -> int:
        with self.environment.begin() as transaction:
            return sum(len(transaction.get(key, db=self.table)) for key in keys)


def compare_with_lmdb(folder: Path, groups_per_put: int, seconds: float) -> dict[str, float]:
    """Groups per second: `put` and `bare_put`, `cycle` and `bare_cycle`, alternating plan by plan."""
    template = make_template()
    record = make_record(template.header, [0.0] * GROUP_SIZE, template.loss_mask, 1)
    value = bytes(ValueScratch().encode(msgspec.msgpack.encode(record), template.buffers))
    groups_per_plan = PUTS_PER_PLAN * groups_per_put
    shard, bare = open_shard(folder / "ours", groups_per_plan), BareLmdb(folder / "bare")
    spent = dict.fromkeys(("put", "bare_put", "cycle", "bare_cycle", "packed"), 0.0)
    paddings = []
    kept: list[list[bytes]] = [[], []]
    number = num_plans = 0
    deadline_s = time.perf_counter() + seconds
    while time.perf_counter() < deadline_s or num_plans < WARM_UP_PLANS + 2:
        version = shard.buffer.last_plan
        groups = [renamed(template, number + i, version) for i in range(groups_per_plan)]
        puts = [groups[i : i + groups_per_put] for i in range(0, groups_per_plan, groups_per_put)]
        # Bare LMDB is handed finished values, each in memory of its own, as groups from the wire are.
        values = [{g.header.group_id.encode(): bytes(bytearray(value)) for g in put} for put in puts]
        number += groups_per_plan

        began_s = time.perf_counter()
        shard.cover(version - 1)  # what the batch before last used is deleted with the next put
        for put in puts:
            shard.put(put)
        put_s = time.perf_counter() - began_s
        plan = shard.plan(version + 1, PolicyVersion(0, version))
        assert not isinstance(plan, Shortfall)
        with shard.store.read() as reader:
            for group_id in dict.fromkeys(split_id(sequence.trajectory_id)[0] for sequence in plan.sequences):
                assert reader.group(group_id) is not None
        cycle_s = time.perf_counter() - began_s
        assert shard.pack(plan).loss_mask.sum() == plan.token_budget
        packed_s = time.perf_counter() - began_s
        paddings.append(padding_fraction(plan))

        began_s = time.perf_counter()
        deleted = kept.pop(0)
        for put_values in values:
            bare.put(put_values, deleted)
            deleted = []
        bare_put_s = time.perf_counter() - began_s
        kept.append([key for put_values in values for key in put_values])
        bare.get(kept[-1])
        bare_cycle_s = time.perf_counter() - began_s

        num_plans += 1
        if num_plans > WARM_UP_PLANS:
            for name, taken in zip(spent, (put_s, bare_put_s, cycle_s, bare_cycle_s, packed_s), strict=True):
                spent[name] += taken
    shard.close()
    bare.environment.close()
    rates = {name: (num_plans - WARM_UP_PLANS) * groups_per_plan / taken for name, taken in spent.items()}
    return rates | {"padding": statistics.mean(paddings)}


def memory_growth(folder: Path, budget_bytes: int, seconds: float) -> tuple[float, float, float]:
    """Anonymous memory while the buffer holds four times `budget_bytes`: MiB early, late, and of the buffer."""
    template = make_template()
    group_bytes = sum(memoryview(part).nbytes for part in template.buffers)
    groups_per_batch = 16
    held_batches = max(2, 4 * budget_bytes // (group_bytes * groups_per_batch))
    rules = BufferRules(
        token_budget=groups_per_batch * GROUP_TOKENS, token_capacity=TOKEN_CAPACITY, max_staleness=10**9,
        max_buffer_tokens=10**12,
    )  # fmt: skip
    shard = ReplayShard(ReplayStore(folder, MAP_SIZE_BYTES), rules, AdvantageRules())
    number, samples = 0, []
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        version = shard.buffer.last_plan
        shard.put([renamed(template, number + i, version) for i in range(groups_per_batch)])
        number += groups_per_batch
        if len(shard.buffer) >= held_batches * groups_per_batch:
            assert not isinstance(shard.batch(version + 1, PolicyVersion(0, version)), Shortfall)
            shard.cover(version)
            samples.append(anonymous_mib())
            shard.heard(tuple(shard.unheard))
    held_mib = len(shard.buffer) * group_bytes / 2**20
    shard.close()
    quarter = max(1, len(samples) // 4)
    return statistics.median(samples[:quarter]), statistics.median(samples[-quarter:]), held_mib


def anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def transfer_queue(num_groups: int, groups_per_put: int, rows_per_group: int) -> dict[str, float] | None:
    command = [sys.executable, str(Path(__file__).with_name("transfer_queue_contender.py"))]
    words = [str(num_groups), str(groups_per_put), str(rows_per_group)]
    environment = peer_environment()
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=300, env=environment)
    if done.returncode:
        print(f"TransferQueue did not run: {done.stderr.strip().splitlines()[-1:]}")
        return None
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where the stores are made; a local disk")
    parser.add_argument("--batch", type=int, default=64, help="groups of one commit")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round")
    parser.add_argument("--memory-s", type=float, default=45.0)
    parser.add_argument("--memory-budget-mib", type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="replay-", dir=options.folder))
    table = Table("what", "groups/s", "MB/s", title=f"groups of {GROUP_SIZE} × {NUM_TOKENS:,} tokens")
    group_bytes = sum(memoryview(part).nbytes for part in make_template().buffers)

    def row(name: str, rate: float) -> None:
        table.add_row(name, f"{rate:,.0f}", f"{rate * group_bytes / 1e6:,.0f}")

    try:
        rounds = []
        for number in range(ROUNDS):
            (folder / f"round-{number}").mkdir()
            rounds.append(compare_with_lmdb(folder / f"round-{number}", options.batch, options.seconds / 2))
            shutil.rmtree(folder / f"round-{number}")
        rates = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        put_ratio = statistics.median(one["put"] / one["bare_put"] for one in rounds)
        cycle_ratio = statistics.median(one["cycle"] / one["bare_cycle"] for one in rounds)
        for name in ("bare_put", "put", "bare_cycle", "cycle", "packed"):
            row(name.replace("bare_", "bare LMDB "), rates[name])
        zmq_rates, queue_rates = [], []
        for number in range(3):
            zmq_rates.append(cycle_over_zmq(folder / f"zmq-{number}", make_template(), options.batch, options.seconds))
            one = transfer_queue(96, 1, GROUP_SIZE)
            if one is not None:
                queue_rates.append(one["groups_per_s"])
        row("replay over ZMQ, durable", statistics.median(zmq_rates))
        if queue_rates:
            row("TransferQueue, in memory, one group a put", statistics.median(queue_rates))
            whole = transfer_queue(512, 64, 1)
            if whole is not None:
                row("TransferQueue, in memory, 64 groups a put, a group one row", whole["groups_per_s"])
        start_mib, end_mib, held_mib = memory_growth(
            folder / "memory", options.memory_budget_mib << 20, options.memory_s
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=100).print(table)
    print(f"padding {rates['padding']:.2%} with rows of four of the longest; load average {os.getloadavg()[0]:.1f}")
    print(f"memory: {start_mib:.0f} MiB → {end_mib:.0f} MiB in {options.memory_s:.0f} s, buffer {held_mib:.0f} MiB")
    bars = {
        "put_over_bare_lmdb": Bar(put_ratio, 0.5, "×"),
        "cycle_over_bare_lmdb": Bar(cycle_ratio, 0.4, "×"),
        "anonymous_memory_growth": Bar(end_mib / start_mib - 1.0, 0.05, "share", is_upper=True),
    }
    if queue_rates:
        ratio = statistics.median(a / b for a, b in zip(zmq_rates, queue_rates, strict=True))
        bars["cycle_over_transfer_queue"] = Bar(ratio, 10.0, "×")
    write_bars("replay", bars)


if __name__ == "__main__":
    main()

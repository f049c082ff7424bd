"""A fleet of 10 to 10,000 rollout actors on a virtual clock, run by the same `core` objects as the real one.

    python benchmarks/simulate_fleet.py [--actors 10 100 1000 10000] [--steps 48]

Admission, buffer, batch plans and ledger are the real objects; engines, learner, failures and time are modelled. The
fleet grows together with its learner: Φ is proportional to the number of actors, and the learner trains a little slower
than the fleet generates. Lengths are log-normal, clipped: mean about 12,000 tokens, longest 32,768; prompts differ in
how long their answers are. `docs/scale.md` explains the result.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from bars import Bar, write_bars
from ring_async.core.ids import split_id
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.progress import GroupRecord
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules
from ring_async.core.work.ledger import Ledger
from ring_async.core.work.ledger_records import GroupReissued, GroupReserved, StatesMoved
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import (
    GroupHeader,
    PolicyVersion,
    Prompt,
    Reservation,
    SamplingParams,
    Segment,
    TrajectoryHeader,
    VerifierStamp,
)

MAX_TOKENS = 32_768
GROUP_SIZE = 8
STAMP = VerifierStamp("simulated", "0" * 16, 0)


@dataclass(frozen=True)
class Fleet:
    """What is modelled, and with which figures.

    Attributes:
        tokens_per_s: of one response; `slots` run at once on one actor.
        learner_margin: how much faster the whole fleet generates useful tokens than the learner trains them.
        mean_life_s: of an actor between failures.
        plan_s: the learner's wait for replay to plan and pack, from `bench_replay`.
    """

    num_actors: int
    max_staleness: int
    steps: int
    seed: int = 0
    slots: int = 16
    tokens_per_s: float = 60.0
    responses_per_batch_and_slot: float = 1.0
    no_signal_share: float = 0.3
    learner_margin: float = 1.15
    reward_s: float = 2.0
    publish_s: float = 10.0
    plan_s: float = 2.0
    straggler_share: float = 0.02
    straggler_speed: float = 0.5
    mean_life_s: float = 86_400.0
    noticed_s: float = 30.0
    restart_s: float = 120.0

    @property
    def token_budget(self) -> int:
        return int(12_000 * self.num_actors * self.slots * self.responses_per_batch_and_slot)

    @property
    def learner_tokens_per_s(self) -> float:
        generated = self.num_actors * self.slots * self.tokens_per_s * (1 - self.no_signal_share)
        return generated / self.learner_margin


@dataclass
class Actor:
    """`free` slots are negative by the responses that wait in the engine for one; `queue` holds those."""

    speed: float
    free: int
    life: int = 0
    groups: set[str] = field(default_factory=set)
    queue: deque[tuple[str, int]] = field(default_factory=deque)
    is_waiting: bool = False


@dataclass
class Work:
    reservation: Reservation
    lengths: list[int]
    begun: PolicyVersion
    num_left: int = GROUP_SIZE


class Simulation:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.rng = np.random.default_rng(fleet.seed)
        self.now_s = 0.0
        self.events: list[tuple[float, int, object, tuple[object, ...]]] = []
        self.order = itertools.count()
        self.limiter = AdmissionLimiter(
            AdmissionRules(fleet.token_budget, fleet.max_staleness, GROUP_SIZE * MAX_TOKENS)
        )
        self.limiter.state.group_tokens = GROUP_SIZE * 12_000.0
        self.limiter.state.no_signal_share = fleet.no_signal_share
        self.buffer = ReplayBuffer(
            BufferRules(fleet.token_budget, token_capacity=4 * (MAX_TOKENS + 512), max_staleness=fleet.max_staleness)
        )
        self.ledger = Ledger()
        slow = self.rng.random(fleet.num_actors) < fleet.straggler_share
        self.actors = [Actor(fleet.straggler_speed if is_slow else 1.0, fleet.slots) for is_slow in slow]
        self.waiting: deque[int] = deque()
        self.again: deque[Work] = deque()
        self.work: dict[str, Work] = {}
        self.engine_version = self.learner = PolicyVersion(0, 0)
        self.is_training = False
        self.busy_s: list[tuple[float, float]] = []
        self.staleness: list[int] = []
        self.lengths: dict[str, list[int]] = {"reserved": [], "trained": [], "evicted": []}
        self.buffer_tokens: list[int] = []
        self.core_s = {"admission": 0.0, "put": 0.0, "plan": 0.0}
        self.num_groups = 0
        self.num_done = 0
        self.num_failures = 0
        self.evicted_before = self.settled_before = 0

    # -- time

    def after(self, seconds: float, what: object, *args: object) -> None:
        heapq.heappush(self.events, (self.now_s + seconds, next(self.order), what, args))

    def run(self) -> None:
        for number in range(len(self.actors)):
            self.ask(number)
            self.after(self.rng.exponential(self.fleet.mean_life_s), self.fail, number)
        while len(self.busy_s) < self.fleet.steps:
            self.now_s, _, what, args = heapq.heappop(self.events)
            what(*args)  # type: ignore[operator]

    # -- rollout actors

    def ask(self, number: int) -> None:
        """Take groups while there are slots and admission grants; else wait in line."""
        actor = self.actors[number]
        while actor.free > 0:  # the last group of an actor may wait for slots in part, as the rollout actor has it
            began = time.thread_time()
            grant = self.limiter.grantable(len(self.work) + len(self.again), self.engine_version)
            if not self.again and not grant.num_groups:
                self.core_s["admission"] += time.thread_time() - began
                if not actor.is_waiting:
                    actor.is_waiting = True
                    self.waiting.append(number)
                return
            work = self.again.popleft() if self.again else self.reserve(number)
            self.core_s["admission"] += time.thread_time() - began
            self.start(number, work)

    def reserve(self, number: int) -> Work:
        group_id = f"g{self.num_groups}"
        self.num_groups += 1
        of_prompt = self.rng.normal(0.0, 0.4)
        lengths = np.exp(9.35 + of_prompt + self.rng.normal(0.0, 0.45, GROUP_SIZE))
        lengths = np.clip(lengths, 16, MAX_TOKENS).astype(int).tolist()
        prompt = Prompt(group_id, "simulated", "")
        sampling = SamplingParams(max_tokens=MAX_TOKENS)
        reservation = Reservation(group_id, prompt, GROUP_SIZE, 0, sampling, 0, 60.0)
        self.ledger.apply(GroupReserved(reservation, f"rollout-{number}"))
        self.lengths["reserved"] += lengths
        return Work(reservation, lengths, self.engine_version)

    def start(self, number: int, work: Work) -> None:
        actor = self.actors[number]
        group_id = work.reservation.group_id
        work.begun, work.num_left = self.engine_version, GROUP_SIZE
        actor.groups.add(group_id)
        self.work[group_id] = work
        for length in work.lengths:
            if actor.free > 0:
                self.generate(number, group_id, length)
            else:
                actor.queue.append((group_id, length))
            actor.free -= 1

    def generate(self, number: int, group_id: str, length: int) -> None:
        actor = self.actors[number]
        seconds = length / (self.fleet.tokens_per_s * actor.speed)
        self.after(seconds, self.respond, number, actor.life, group_id)

    def respond(self, number: int, life: int, group_id: str) -> None:
        actor = self.actors[number]
        if actor.life != life:
            return  # it failed meanwhile
        work = self.work[group_id]
        work.num_left -= 1
        actor.free += 1
        if actor.queue:
            queued, length = actor.queue.popleft()
            self.generate(number, queued, length)
        if not work.num_left:
            actor.groups.discard(group_id)
            self.after(self.rng.exponential(self.fleet.reward_s), self.score, group_id)
        self.ask(number)

    def fail(self, number: int) -> None:
        actor = self.actors[number]
        self.num_failures += 1
        lost, actor.groups = actor.groups, set()
        actor.life += 1
        actor.free = 0
        actor.queue.clear()
        self.after(self.fleet.noticed_s, self.take_back, lost, number)
        self.after(self.fleet.restart_s, self.come_back, number)

    def take_back(self, lost: set[str], number: int) -> None:
        for group_id in sorted(lost):
            self.ledger.apply(GroupReissued(group_id, "controller-0"))
            self.again.append(self.work.pop(group_id))
        self.wake()

    def come_back(self, number: int) -> None:
        self.actors[number].free = self.fleet.slots
        self.after(self.rng.exponential(self.fleet.mean_life_s), self.fail, number)
        self.ask(number)

    def wake(self) -> None:
        """Admission may have moved: those who wait ask again, in turn, until it grants no more."""
        while self.waiting:
            if not self.again and not self.limiter.grantable(len(self.work), self.engine_version).num_groups:
                return
            number = self.waiting.popleft()
            self.actors[number].is_waiting = False
            self.ask(number)

    # -- reward and replay

    def score(self, group_id: str) -> None:
        work = self.work.pop(group_id)
        has_signal = self.rng.random() >= self.fleet.no_signal_share
        state, cause = ("buffered", "") if has_signal else ("dropped", "no_signal")
        ids = [f"{group_id}/{index}" for index in range(GROUP_SIZE)]
        states = tuple(TrajectoryState(i, state, cause, n) for i, n in zip(ids, work.lengths, strict=True))
        began = time.thread_time()
        self.ledger.apply(StatesMoved(states))
        if has_signal:
            record = GroupRecord(
                self.header(work, ids), (1.0, -1.0) * (GROUP_SIZE // 2), self.buffer.next_arrival, (None,) * GROUP_SIZE
            )
            self.buffer.add(record, self.buffer.admit(record, [False] * GROUP_SIZE))
        self.core_s["put"] += time.thread_time() - began
        self.num_done += 1
        self.limiter.observe_group(sum(work.lengths), has_signal=has_signal)
        self.report()
        self.train()
        self.wake()

    def header(self, work: Work, ids: list[str]) -> GroupHeader:
        trajectories = tuple(
            TrajectoryHeader(i, n, "length" if n == MAX_TOKENS else "stop", (Segment(0, n, work.begun),), 1.0)
            for i, n in zip(ids, work.lengths, strict=True)
        )
        one = work.reservation
        return GroupHeader(one.group_id, one.prompt, 0, "engine", 0, one.sampling, 512, trajectories, STAMP)

    def report(self, *, is_waiting: bool = False) -> None:
        self.limiter.observe_buffer(
            self.buffer.trainable_tokens, self.buffer.last_plan + 1, is_learner_waiting=is_waiting
        )

    # -- learner

    def train(self) -> None:
        if self.is_training or self.buffer.trainable_tokens < self.fleet.token_budget:
            return
        began = time.thread_time()
        evicted = self.buffer.evict(self.learner)
        for moved in evicted.moved:
            group_id, index = split_id(moved.trajectory_id)
            trajectory = self.buffer.record(group_id).header.trajectories[index]
            self.lengths["evicted"].append(trajectory.num_tokens)
        self.apply(evicted)
        change = self.buffer.plan(self.buffer.last_plan + 1, self.learner)
        self.core_s["plan"] += time.thread_time() - began
        if isinstance(change, Shortfall):
            self.report(is_waiting=True)
            return
        self.apply(change)
        assert change.plan is not None
        self.staleness += [sequence.staleness for sequence in change.plan.sequences]
        self.lengths["trained"] += [s.num_response_tokens for s in change.plan.sequences if s.interval.start == 0]
        self.buffer_tokens.append(self.buffer.trainable_tokens)
        self.is_training = True
        self.report()
        seconds = self.fleet.token_budget / self.fleet.learner_tokens_per_s
        self.after(self.fleet.plan_s + seconds, self.step, seconds)

    def apply(self, change: object) -> None:
        if change.moved:  # type: ignore[attr-defined]
            self.ledger.apply(StatesMoved(change.moved))  # type: ignore[attr-defined]
        self.buffer.apply(change)  # type: ignore[arg-type]

    def step(self, seconds: float) -> None:
        self.busy_s.append((self.now_s - seconds, self.now_s))
        self.learner = PolicyVersion(0, self.learner.number + 1)
        self.is_training = False
        if len(self.busy_s) == self.fleet.steps // 2:  # what was gathered until now is warm-up
            self.evicted_before, self.settled_before = self.settled()
            self.staleness.clear()
            self.buffer_tokens.clear()
        self.apply(self.buffer.cover(self.buffer.last_plan))
        self.after(self.fleet.publish_s, self.publish, self.learner)
        self.train()

    def publish(self, version: PolicyVersion) -> None:
        """Engines hold the new version now, and admission knows it."""
        self.engine_version = version
        self.limiter.observe_version(version)
        self.report(is_waiting=not self.is_training)
        self.wake()

    # -- result

    def settled(self) -> tuple[int, int]:
        """Trajectories evicted, and all that were trained or evicted."""
        counts = self.ledger.counts()
        return counts["evicted"], counts["consumed"] + counts["retired"] + counts["evicted"]

    def result(self) -> dict[str, object]:
        self.ledger.check()
        steady = self.busy_s[len(self.busy_s) // 2 :]
        elapsed_s = steady[-1][1] - steady[0][0]
        evicted, settled = self.settled()
        groups_per_s = self.num_done / self.now_s
        return {
            "utilisation": sum(end - start for start, end in steady) / elapsed_s,
            "tokens_per_s": len(steady) * self.fleet.token_budget / elapsed_s,
            "staleness": np.bincount(self.staleness, minlength=1) / len(self.staleness),
            "evicted": (evicted - self.evicted_before) / (settled - self.settled_before),
            "buffer_batches": float(np.mean(self.buffer_tokens)) / self.fleet.token_budget,
            "groups_per_s": groups_per_s,
            "controller_load": (self.core_s["admission"] / self.num_groups) * groups_per_s,
            "put_load": (self.core_s["put"] / self.num_done) * groups_per_s,
            "plan_s": self.core_s["plan"] / len(self.busy_s),
            "step_s": self.fleet.token_budget / self.fleet.learner_tokens_per_s,
            "lengths": {
                name: [int(q) for q in np.percentile(values, (50, 90, 99))] if values else []
                for name, values in self.lengths.items()
            },
            "failures": self.num_failures,
        }


def simulate(num_actors: int, max_staleness: int, steps: int, seed: int = 0, **changes: float) -> dict[str, object]:
    simulation = Simulation(Fleet(num_actors, max_staleness, steps, seed, **changes))  # type: ignore[arg-type]
    simulation.run()
    return simulation.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--steps", type=int, default=48, help="half of them are warm-up")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--at", type=int, default=1_000, help="fleet size of the bars")
    parser.add_argument("--curve-at", type=int, default=100, help="fleet size of the max_staleness curve")
    options = parser.parse_args()
    console = Console(width=150)

    scale = Table(
        "actors", "mode", "learner busy", "tokens/s", "async/sync", "evicted", "buffer/Φ", "staleness 0,1,2,…",
        "groups/s", "controller", "puts", "plan s", "failures", title="fleet size (max_staleness 4 against sync)",
    )  # fmt: skip
    curve = Table(
        "max_staleness", "learner busy", "speed-up", "evicted", "mean staleness", title="at the fleet of --at"
    )
    results: dict[tuple[int, int], dict[str, object]] = {}

    def get(num_actors: int, max_staleness: int) -> dict[str, object]:
        steps = options.steps if num_actors <= 1_000 else max(8, options.steps // 4)
        key = (num_actors, max_staleness)
        if key not in results:
            results[key] = simulate(num_actors, max_staleness, steps)
        return results[key]

    for num_actors in options.actors:
        sync = get(num_actors, 0)
        for name, one in (("sync", sync), ("async", get(num_actors, 4))):
            scale.add_row(
                f"{num_actors:,}", name, f"{one['utilisation']:.1%}", f"{one['tokens_per_s']:,.0f}",
                f"{one['tokens_per_s'] / sync['tokens_per_s']:.2f}", f"{one['evicted']:.2%}",
                f"{one['buffer_batches']:.2f}", " ".join(f"{share:.2f}" for share in one["staleness"]),
                f"{one['groups_per_s']:.1f}", f"{one['controller_load']:.2%}", f"{one['put_load']:.2%}",
                f"{one['plan_s']:.2f}", f"{one['failures']}",
            )  # type: ignore[operator,attr-defined,str-bytes-safe]  # fmt: skip
    for max_staleness in options.staleness:
        one, sync = get(options.curve_at, max_staleness), get(options.curve_at, 0)
        mean = float(np.dot(one["staleness"], np.arange(len(one["staleness"]))))  # type: ignore[arg-type]
        curve.add_row(
            str(max_staleness), f"{one['utilisation']:.1%}", f"{one['tokens_per_s'] / sync['tokens_per_s']:.2f}",
            f"{one['evicted']:.2%}", f"{mean:.2f}",
        )  # type: ignore[operator]  # fmt: skip
    console.print(scale)
    console.print(curve)
    best = get(options.at, 4)
    quantiles = best["lengths"]
    for name, values in quantiles.items():  # type: ignore[attr-defined]
        console.print(f"lengths {name:9} p50, p90, p99: {values}")
    parted = max(abs(a / b - 1) for a, b in zip(quantiles["trained"], quantiles["reserved"], strict=True))  # type: ignore[index]
    write_bars(
        "fleet",
        {
            "learner_utilisation": Bar(float(best["utilisation"]), 0.95, "share"),  # type: ignore[arg-type]
            "evicted": Bar(float(best["evicted"]), 0.01, "share", is_upper=True),  # type: ignore[arg-type]
            "length_quantiles_apart": Bar(parted, 0.05, "share", is_upper=True),
        },
    )
    print(f"synchronous learner utilisation at {options.at:,} actors: {get(options.at, 0)['utilisation']:.1%}")


if __name__ == "__main__":
    main()

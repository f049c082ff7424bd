"""One plan over several shards: exact, the same as over one, followed from the log alone in any order of crashes."""

import msgspec
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ring_async.columns import MAX_COLUMNS, Column
from ring_async.core.ids import split_id
from ring_async.core.replay.batch_planning import plan_batch
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.group_bundle import bundle, unbundle
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.offers import Mirror
from ring_async.core.replay.plan_log import PlanLog, plan_part
from ring_async.core.replay.progress import Progress, make_record
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.staleness import Lineage
from ring_async.testing.builders import make_group
from ring_async.types import PolicyVersion


def shard_index(group_id, num_shards):
    return int(group_id[1:]) % num_shards


class Shards:
    """Buffers as shards keep them, the first of which plans; the log is a list, stores are what buffers hold."""

    def __init__(self, num, rules):
        self.rules = msgspec.structs.replace(rules, num_shards=num)
        self.buffers = [ReplayBuffer(self.rules, stream=f"shard {index}") for index in range(num)]
        self.mirrors = [Mirror(self.rules, Lineage()) for _ in range(num)]
        self.away = set()
        self.log = []

    def put(self, group):
        buffer = self.buffers[shard_index(group.header.group_id, len(self.buffers))]
        record = make_record(group.header, np.linspace(1, -1, 3), group.loss_mask, buffer.next_arrival)
        buffer.add(record, buffer.admit(record, [False] * 3))

    def follow(self, index):
        """Follow what is logged, as a shard that was away does."""
        buffer = self.buffers[index]
        for entry in self.log[buffer.last_plan :]:
            part = plan_part(entry, lambda group_id: shard_index(group_id, len(self.buffers)) == index)
            taken = [(*split_id(trajectory_id), num_tokens) for trajectory_id, num_tokens in part.taken]
            buffer.apply(buffer.advance(part.plan_number, taken, part.max_reuse, carries=part.carries))

    def hear(self, index):
        """What the planner knows of another shard's groups after it has heard of all changes, in small portions."""
        mirror, buffer = self.mirrors[index], self.buffers[index]
        mirror.follow(self.rules, buffer.lineage, buffer.epoch_rules)
        while True:
            offer = buffer.offer(mirror.mark)
            mirror.take_in(offer)
            if not offer.has_more:
                return mirror.groups

    def plan(self, learner):
        """A new plan over all shards that are there, or why there is none; only the planner follows it at once."""
        others = []
        planner = self.buffers[0]
        for index, buffer in enumerate(self.buffers):
            if index in self.away:
                continue
            self.follow(index)
            buffer.apply(buffer.evict(learner))
            if index:
                others.append(self.hear(index))
        change = planner.plan(planner.last_plan + 1, learner, others=others)
        if not isinstance(change, Shortfall):
            self.log.append(change.entry)
            planner.apply(change)
        return change


def groups(seed, num, version=0):
    rng = np.random.default_rng(seed)
    for number in range(num):
        lengths = rng.integers(2, 12, 3).tolist()
        group = make_group(f"g{seed * 1_000 + number}", rewards=[1, 0, 0], lengths=lengths, versions=version)
        group.loss_mask[:] = rng.random(group.loss_mask.size) < 0.8
        yield group


def test_several_shards_plan_what_one_would():
    rules = BufferRules(token_budget=40, token_capacity=32)
    one, three = Shards(1, rules), Shards(3, rules)
    for group in groups(1, 20):  # below the retention bound, which each shard has its part of
        one.put(group)
        three.put(group)
    taken_from = set()
    for number in range(5):
        learner = PolicyVersion(0, number)
        a, b = one.plan(learner).plan, three.plan(learner).plan
        assert sorted(s.interval for s in a.sequences) == sorted(s.interval for s in b.sequences)
        taken_from |= {shard_index(split_id(s.trajectory_id)[0], 3) for s in b.sequences}
    assert taken_from == {0, 1, 2}


def test_a_bundle_of_groups_is_the_groups_again():
    given = list(groups(2, 4))
    again = unbundle([memoryview(np.ascontiguousarray(part)).cast("B") if isinstance(part, np.ndarray) else part
                      for part in bundle(given)])  # fmt: skip
    assert [group.header for group in again] == [group.header for group in given]
    for a, b in zip(again, given, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.buffers, b.buffers, strict=True))


class ShardedFlow(RuleBasedStateMachine):
    """Groups arrive, shards come and go, the learner trains: each plan is exact, and no token is trained twice."""

    @initialize(
        num=st.integers(2, 4),
        token_budget=st.integers(12, 40),
        max_staleness=st.integers(0, 3),
        max_reuse=st.sampled_from([1, 1, 2]),
        carry=st.booleans(),
        order=st.sampled_from(["oldest_version", "fifo", "random", "abs_advantage"]),
    )
    def start(self, num, token_budget, max_staleness, max_reuse, carry, order):
        rules = BufferRules(
            token_budget, 32, max_staleness=max_staleness, max_reuse=max_reuse, carry=carry, order=order
        )
        self.shards = Shards(num, rules)
        self.learner = PolicyVersion(0, 0)
        self.num_fed = 0

    @rule(num=st.integers(1, 6))
    def feed(self, num):
        self.num_fed += 1
        for group in groups(self.num_fed, num, self.learner):
            self.shards.put(group)

    @rule(data=st.data())
    def leave(self, data):
        self.shards.away.add(data.draw(st.integers(1, len(self.shards.buffers) - 1)))

    @precondition(lambda self: self.shards.away)
    @rule(data=st.data())
    def come_back(self, data):
        self.shards.away.discard(data.draw(st.sampled_from(sorted(self.shards.away))))

    @rule()
    def train(self):
        change = self.shards.plan(self.learner)
        if isinstance(change, Shortfall):
            return
        assert sum(change.entry.loss_tokens) == self.shards.rules.token_budget
        gone = {shard_index(split_id(s.trajectory_id)[0], len(self.shards.buffers)) for s in change.plan.sequences}
        assert not gone & self.shards.away
        self.learner = PolicyVersion(self.learner.incarnation, self.learner.number + 1)

    @precondition(lambda self: self.shards.log)
    @rule(data=st.data())
    def save_checkpoint(self, data):
        covered = data.draw(st.integers(1, len(self.shards.log)))
        for index, buffer in enumerate(self.shards.buffers):
            if index not in self.shards.away:
                buffer.apply(buffer.cover(min(covered, buffer.last_plan)))

    def teardown(self):
        if not hasattr(self, "shards"):
            return
        log = PlanLog()
        log.read(self.shards.log)
        assert log.violations == []
        for index, buffer in enumerate(self.shards.buffers):
            self.shards.follow(index)
            assert buffer.last_plan == len(self.shards.log)
            for group_id in buffer.group_ids():
                for k, one in enumerate(buffer.progress(group_id)):
                    trained = log.consumed.get(f"{group_id}/{k}")
                    assert (trained.num_passes if trained else 0) == one.num_uses
                    assert (trained.last_plan if trained else 0) == one.last_plan


ShardedFlow.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_sharded_flow = ShardedFlow.TestCase


def held(group_id, *columns, lengths=(3, 3)):
    group = make_group(group_id, lengths=list(lengths), columns=columns)
    return make_record(group.header, [1.0, -1.0], group.loss_mask, 1)


COLUMN_RULES = BufferRules(token_budget=12, token_capacity=32, order="fifo")
NARROW, WIDE, AGE = Column("experts", "uint8", 2), Column("experts", "uint8", 4), Column("kv_age", "uint8")


def planned(groups, rules=COLUMN_RULES):
    shard = HeldGroups(rules, Lineage())
    for record in groups.values():
        shard.put(record, (Progress(), Progress()))
    return plan_batch([shard], rules, Lineage(), 1, PolicyVersion(0, 0))


def test_a_plan_has_the_columns_of_all_it_takes_from():
    batch = planned({"a": held("a", NARROW), "b": held("b", NARROW, AGE)})
    assert batch.entry.plan.columns == (NARROW, AGE)
    assert planned({"a": held("a"), "b": held("b")}).entry.plan.columns == ()


def test_groups_whose_column_most_others_have_differently_are_passed_over():
    groups = {"a": held("a", NARROW), "b": held("b", WIDE), "c": held("c", WIDE)}
    batch = planned(groups)
    assert {group_id for group_id, _, _ in batch.taken} == {"b", "c"}
    assert batch.entry.plan.columns == (WIDE,)
    short = planned({"a": held("a", NARROW), "b": held("b", WIDE, lengths=(4, 4))})
    assert short.reason == ("8 of 12 eligible tokens; 2 responses have columns unlike the others' experts (uint8 × 4)")


def test_groups_beyond_the_most_columns_of_a_batch_are_passed_over_and_the_batch_is_made():
    groups = {f"g{i}": held(f"g{i}", Column(f"c{i}", "uint8"), lengths=(30, 30)) for i in range(MAX_COLUMNS)}
    groups["small"] = held("small", Column("one_more", "uint8"))
    batch = planned(groups, BufferRules(token_budget=960, token_capacity=64))
    assert {column.name for column in batch.entry.plan.columns} == {f"c{i}" for i in range(MAX_COLUMNS)}
    assert "small" not in {group_id for group_id, _, _ in batch.taken}

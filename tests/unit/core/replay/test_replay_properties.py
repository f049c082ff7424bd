"""Must hold under any interleaving: the account adds up, batches are exact, nothing is lost, doubled, stale, or stuck.

A machine plays the whole flow with the pure objects alone: limiter, ledger, buffer and plan log, and a store that is a
dictionary. Crashes throw the objects away and build them again from what was durable.
"""

import msgspec
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ring_async.core.advantages import AdvantageRules, group_advantages
from ring_async.core.ids import split_id
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.plan_log import PlanEntry, PlanLog
from ring_async.core.replay.progress import Progress, count_loss_tokens, make_record
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.staleness import Lineage
from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules
from ring_async.core.work.ledger import Ledger
from ring_async.core.work.ledger_records import GroupReissued, GroupReserved, GroupReturned, StatesMoved
from ring_async.testing.builders import make_group, make_reservation
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import PolicyVersion

MAX_TOKENS = 12
GROUP_SIZE = 3


class ReplayFlow(RuleBasedStateMachine):
    @initialize(
        token_budget=st.integers(MAX_TOKENS, 40),
        max_staleness=st.integers(0, 4),
        max_reuse=st.sampled_from([1, 1, 1, 2, 3]),
        order=st.sampled_from(["oldest_version", "fifo", "random", "abs_advantage"]),
        carry=st.booleans(),
        measure=st.sampled_from(["oldest", "oldest", "newest", "mean"]),
    )
    def start(self, token_budget, max_staleness, max_reuse, order, carry, measure):
        self.rules = BufferRules(
            token_budget=token_budget, token_capacity=32, max_staleness=max_staleness, staleness_measure=measure,
            max_reuse=max_reuse, order=order, carry=carry,
        )  # fmt: skip
        self.stored, self.ended, self.meta = {}, {}, {"last_plan": 0, "covered": 0, "lineage": Lineage()}
        self.plans: list[PlanEntry] = []
        self.records = []
        self.ledger = Ledger()
        self.buffer = ReplayBuffer(self.rules)
        self.limiter = AdmissionLimiter(self.admission_rules())
        self.learner = PolicyVersion(0, 0)
        self.engine = self.learner
        self.in_flight = {}
        self.num_groups = 0
        self.is_waiting = False

    def admission_rules(self):
        return AdmissionRules(
            self.rules.token_budget, self.rules.max_staleness, GROUP_SIZE * MAX_TOKENS, max_reuse=self.rules.max_reuse
        )

    def record(self, record):
        self.ledger.apply(record)
        self.records.append(record)

    # -- what happens

    @rule(num=st.integers(1, 8))
    def reserve(self, num):
        grant = self.limiter.grantable(len(self.in_flight), self.engine)
        for _ in range(min(num, grant.num_groups)):
            group_id = f"g{self.num_groups}"
            self.num_groups += 1
            self.record(GroupReserved(make_reservation(group_id, group_size=GROUP_SIZE), "rollout-0"))
            self.in_flight[group_id] = self.engine

    @precondition(lambda self: self.engine != self.learner)
    @rule()
    def adopt_weights(self):
        self.engine = self.learner

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), num=st.integers(1, 6), is_twice=st.booleans())
    def complete(self, data, num, is_twice):
        for _ in range(min(num, len(self.in_flight))):
            self.complete_one(data, is_twice)

    def complete_one(self, data, is_twice):
        group_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        begun = self.in_flight.pop(group_id)
        lengths = data.draw(st.lists(st.integers(2, MAX_TOKENS), min_size=GROUP_SIZE, max_size=GROUP_SIZE))
        rewards = data.draw(st.sampled_from([[1, 0, 0], [1, 1, 0], [0.5, 0.2, 0.9], [1, 1, 1]]))
        versions = [[(1, begun), (n - 1, self.engine)] if begun < self.engine else begun for n in lengths]
        group = make_group(group_id, rewards=rewards, lengths=lengths, versions=versions)
        group.loss_mask[:] = np.random.default_rng(len(group_id)).random(group.loss_mask.size) < 0.9
        for _ in range(1 + is_twice):
            self.put(group)

    def put(self, group):
        header = group.header
        if header.group_id in self.stored or header.group_id in self.ended:
            return
        scored = group_advantages(header, AdvantageRules())
        record = make_record(header, scored.advantages, group.loss_mask, self.buffer.next_arrival)
        progress = self.buffer.admit(record, scored.is_masked)
        if not scored.has_signal:
            progress = (Progress(state="dropped", cause="no_signal", is_open=False),) * GROUP_SIZE
        if any(one.is_open for one in progress):
            self.stored[header.group_id] = (record, progress)
            self.buffer.add(record, progress)
        else:
            self.ended[header.group_id] = progress
        moved = [
            TrajectoryState(t.trajectory_id, p.state, p.cause, t.num_tokens)
            for t, p in zip(header.trajectories, progress, strict=True)
        ]
        self.record(StatesMoved(tuple(moved)))
        self.limiter.observe_group(header.num_response_tokens, has_signal=scored.has_signal)
        self.report()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), is_reissued=st.booleans())
    def lose_owner(self, data, is_reissued):
        group_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        if is_reissued:
            self.record(GroupReissued(group_id, "rollout-1"))
            self.in_flight[group_id] = self.engine
        else:
            self.record(GroupReturned(group_id, "owner_lost"))
            del self.in_flight[group_id]

    @rule(num=st.integers(1, 3))
    def train_some(self, num):
        for _ in range(num):
            self.train()

    def train(self):
        number = self.learner.number + 1
        if number <= self.buffer.last_plan:
            entry = self.plans[number - 1]
            for sequence in entry.plan.sequences:  # the payload of a batch to be trained again is still there
                assert split_id(sequence.trajectory_id)[0] in self.stored
        else:
            self.put_in_force(self.buffer.evict(self.learner))
            change = self.buffer.plan(number, self.learner)
            self.is_waiting = isinstance(change, Shortfall)
            if self.is_waiting:
                self.report()
                return
            self.put_in_force(change)
        self.learner = PolicyVersion(self.learner.incarnation, number)
        self.limiter.observe_version(self.learner)

    @precondition(lambda self: self.learner.number > self.buffer.covered)
    @rule(data=st.data())
    def save_checkpoint(self, data):
        self.put_in_force(self.buffer.cover(data.draw(st.integers(self.buffer.covered + 1, self.learner.number))))

    @rule()
    def crash_learner(self):
        self.learner = PolicyVersion(self.learner.incarnation + 1, self.buffer.covered)
        self.engine = self.learner
        self.limiter.observe_version(self.learner)
        self.put_in_force(self.buffer.fork(self.learner.incarnation))

    @rule()
    def crash_replay(self):
        before = self.buffer
        self.buffer = ReplayBuffer(self.rules, **self.meta)
        for record, progress in self.stored.values():
            self.buffer.add(record, progress)
        assert self.buffer.trainable_tokens == before.trainable_tokens
        assert self.buffer.last_plan == before.last_plan

    @rule()
    def crash_controller(self):
        before = self.ledger.snapshot()
        self.ledger = Ledger()
        for record in self.records:
            self.ledger.apply(record)
        assert self.ledger.snapshot() == before
        self.limiter = AdmissionLimiter(self.limiter.rules, self.limiter.state)
        self.report()

    @rule(
        max_staleness=st.integers(0, 4), token_budget=st.integers(MAX_TOKENS, 60), max_reuse=st.sampled_from([1, 1, 2])
    )
    def tune(self, max_staleness, token_budget, max_reuse):
        self.rules = msgspec.structs.replace(
            self.rules, max_staleness=max_staleness, token_budget=token_budget, max_reuse=max_reuse
        )
        self.buffer.tune(self.rules)
        self.limiter.tune(max_staleness=max_staleness, token_budget=token_budget, max_reuse=max_reuse)
        self.report()

    # -- the shells' part: durable first, then in force

    def put_in_force(self, change):
        if change.is_empty:
            return
        if change.plan is not None:
            self.plans.append(self.entry(change.plan))
            self.meta["last_plan"] = change.plan.plan_number
        if change.covered is not None:
            self.meta["covered"] = change.covered
        if change.lineage is not None:
            self.meta["lineage"] = change.lineage
        for group_id, progress in change.progress.items():
            self.stored[group_id] = (self.stored[group_id][0], progress)
        for group_id in change.released:
            self.ended[group_id] = self.stored.pop(group_id)[1]
        if change.moved:
            self.record(StatesMoved(change.moved))
        self.buffer.apply(change)
        self.report()

    def entry(self, plan):
        records = [self.stored[split_id(s.trajectory_id)[0]][0] for s in plan.sequences]
        places = [split_id(s.trajectory_id)[1] for s in plan.sequences]
        return PlanEntry(
            plan=plan,
            max_staleness=self.rules.max_staleness,
            staleness_measure=self.rules.staleness_measure,
            max_reuse=self.rules.max_reuse,
            lineage=self.buffer.lineage,
            loss_tokens=tuple(
                count_loss_tokens(r, i, s.interval) for r, i, s in zip(records, places, plan.sequences, strict=True)
            ),
            segments=tuple(r.header.trajectories[i].segments for r, i in zip(records, places, strict=True)),
        )

    def report(self):
        self.limiter.observe_buffer(
            self.buffer.trainable_tokens, self.buffer.last_plan + 1, is_learner_waiting=self.is_waiting
        )

    # -- what must hold

    @invariant()
    def the_account_adds_up(self):
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert self.ledger.counts()["adopted"] == 0
        for group_id, progress in [*((g, p) for g, (_, p) in self.stored.items()), *self.ended.items()]:
            assert [self.ledger.state_of(f"{group_id}/{k}") for k in range(GROUP_SIZE)] == [p.state for p in progress]

    @invariant()
    def the_buffer_counts_right(self):
        if not hasattr(self, "buffer"):
            return
        fresh = ReplayBuffer(self.rules, **self.meta)
        for record, progress in self.stored.values():
            fresh.add(record, progress)
        assert fresh.trainable_tokens == self.buffer.trainable_tokens

    def teardown(self):
        if not hasattr(self, "buffer"):
            return
        self.no_deadlock()
        log = PlanLog()
        log.read(self.plans)
        assert log.violations == []
        for group_id, progress in [*((g, p) for g, (_, p) in self.stored.items()), *self.ended.items()]:
            for k, one in enumerate(progress):
                trained = log.consumed.get(f"{group_id}/{k}")
                if one.state == "retired":
                    assert trained.num_passes >= 1  # every token of it was trained
                if one.state == "buffered":
                    assert trained is None

    def no_deadlock(self):
        """From wherever the machine stands, generating and training alone lead to the next new batch."""
        goal = self.buffer.last_plan + 1
        for _ in range(400):
            self.engine = self.learner
            self.train()
            if self.learner.number >= goal:
                return
            self.reserve(4)
            for group_id in list(self.in_flight):
                begun = self.in_flight.pop(group_id)
                lengths = [MAX_TOKENS, 5, 7]
                versions = [[(1, begun), (n - 1, self.engine)] if begun < self.engine else begun for n in lengths]
                self.put(make_group(group_id, rewards=[1, 0, 0], lengths=lengths, versions=versions))
        raise AssertionError("no batch came though rollouts generated and the learner asked")


ReplayFlow.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_replay_flow = ReplayFlow.TestCase

"""The index of held groups: totals and orders are those of a walk over all groups, and nothing costs such a walk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.candidates import Candidates
from ring_async.core.replay.held_groups import MIN_HEAP, HeldGroups
from ring_async.core.replay.progress import Progress, make_record
from ring_async.core.replay.transitions import OPEN
from ring_async.core.staleness import Lineage
from ring_async.testing.builders import make_group
from ring_async.trajectory_states import TrajectoryStatus
from ring_async.types import EpochRules, PolicyVersion
from work_counted import instructions

ENDED = Progress(state=TrajectoryStatus.EVICTED, is_open=False)
USED = Progress(num_uses=1, last_plan=1, state=TrajectoryStatus.CONSUMED, is_open=False)
PROGRESS = [OPEN, ENDED, USED, Progress(position=2), Progress(num_uses=1), Progress(num_uses=2)]
RULES = [
    BufferRules(8, 64, max_reuse=2, order=order, source_shares=shares)
    for order in ("oldest_version", "fifo", "random", "abs_advantage")
    for shares in (None, {"a": 0.3, "b": 0.7})
]


def record_of(number, versions=0, source="a", lengths=(4, 4, 4)):
    group = make_group(f"g{number}", rewards=[1, 0, 0], lengths=list(lengths), versions=versions, source=source)
    return make_record(group.header, np.linspace(1, -1, 3), group.loss_mask, number)


progresses = st.tuples(*[st.sampled_from(PROGRESS)] * 3)
puts = st.tuples(st.just("put"), st.integers(0, 9), progresses, st.integers(0, 3), st.sampled_from("ab"))
moves = st.tuples(st.sampled_from(["move", "drop"]), st.integers(0, 9), progresses)
follows = st.tuples(st.just("follow"), st.sampled_from(RULES), st.booleans())


def seen(held, rules):
    """All that a buffer asks, in the order in which it gets it."""
    candidates = Candidates([held], rules, salt=3, learner_number=4)
    return {
        "totals": (held.trainable, held.barred_trainable, held.num_open, held.most_tokens, set(held.barred)),
        "overused": set(held.overused),
        "settling": [group_id for group_id, _ in held.settling()],
        "stale": sorted((group.record.header.group_id, index) for group, index in held.born_before(2)),
        "by age": [(group.record.header.group_id, index) for group, index in held.by_age()],
        "order": [(one.group.record.header.group_id, one.index, one.num_loss_tokens) for one in candidates.in_order()],
        "candidates": (candidates.num, candidates.num_rigid, candidates.tokens),
    }


@given(st.lists(st.one_of(puts, moves, follows), max_size=30))
@settings(deadline=None, max_examples=60)
def test_after_any_changes_it_is_as_if_made_of_what_is_held_now(changes):
    held = HeldGroups(RULES[0], Lineage())
    for what, first, *rest in changes:
        group_id = f"g{first}"
        if what == "put" and group_id not in held:
            progress, version, source = rest
            held.put(record_of(first, [version, 3, version], source, (first + 3, 4, 5)), progress)
        elif what == "move" and group_id in held:
            held.move(group_id, rest[0])
        elif what == "drop" and group_id in held:
            held.drop(group_id)
        elif what == "follow":
            lineage = Lineage(((1, 2),)) if rest[0] else Lineage()
            held.follow(first, lineage, {"exact": EpochRules(1, ())} if rest[0] else {})
    anew = HeldGroups(held.rules, held.lineage, held.epoch_rules)
    for group in map(held.__getitem__, held):
        anew.put(group.record, group.progress)
    assert seen(held, held.rules) == seen(anew, anew.rules)
    opened = [(g, k) for g, group in held.items() for k, one in enumerate(group.progress) if one.is_open]
    assert sorted(seen(held, held.rules)["by age"]) == sorted(opened)
    assert held.num_open == len(opened)


def test_what_has_closed_does_not_pile_up():
    held = HeldGroups(RULES[0], Lineage())
    for number in range(MIN_HEAP + 10):
        held.put(record_of(number), (OPEN,) * 3)
        held.drop(f"g{number}")
    assert len(held._by_age) <= MIN_HEAP
    assert len(held._longest) <= MIN_HEAP


def test_a_group_is_not_the_last_of_its_equals_for_every_batch():
    rules = BufferRules(8, 64, max_staleness=9)
    held = HeldGroups(rules, Lineage())
    for number in range(20):
        held.put(record_of(number), (OPEN,) * 3)
    last = set()
    for salt in range(50):
        *_, one = Candidates([held], rules, salt=salt, learner_number=0).in_order()
        last.add(one.group.record.header.group_id)
    assert len(last) > 5


def buffer_of(num_groups, order="oldest_version", **fields):
    rules = BufferRules(240, 64, **{"max_staleness": 3, "max_buffer_tokens": 10**9, "order": order} | fields)
    buffer = ReplayBuffer(rules, stream="s")
    for number in range(num_groups):
        buffer.add(record_of(number, versions=number % 4, source="ab"[number % 2]), (OPEN,) * 3)
    return buffer


def round_of(buffer):
    """What one batch, one group and one report cost: as many groups end as come."""
    number, learner = buffer.last_plan + 1, PolicyVersion(0, 3)
    buffer.apply(buffer.evict(learner))
    buffer.apply(buffer.plan(number, learner))
    buffer.apply(buffer.cover(number))
    record = record_of(1_000_000 + number, versions=3)
    buffer.add(record, buffer.admit(record, [False] * 3))
    assert buffer.num_open > 0
    assert buffer.eligible_tokens > 0
    assert len(buffer.barred(5)) == 0


@pytest.mark.parametrize("fields", [{}, {"order": "fifo"}, {"source_shares": {"a": 0.3, "b": 0.7}}])
def test_a_batch_costs_as_much_with_many_groups_as_with_few(fields):
    few, many = (buffer_of(num, **fields) for num in (100, 1_500))
    assert instructions(lambda: round_of(many)) < 2 * instructions(lambda: round_of(few))


def test_at_the_retention_bound_each_group_that_comes_ends_one_at_the_same_cost():
    costs = []
    for num in (100, 1_500):
        buffer = buffer_of(num, max_buffer_tokens=num * 12)
        record = record_of(1_000_000, versions=3)
        buffer.add(record, (OPEN,) * 3)
        change = buffer.evict(PolicyVersion(0, 3))
        assert [moved.trajectory_id for moved in change.moved] == ["g0/0", "g0/1", "g0/2"]
        costs.append(instructions(lambda buffer=buffer: buffer.evict(PolicyVersion(0, 3))))
    assert costs[1] < 2 * costs[0]

"""The index over buffered groups: eligibility, progress, eviction, retention, release."""

import msgspec
import numpy as np
import pytest

from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.progress import make_record, num_loss_tokens, token_interval
from ring_async.core.replay.token_budget import Shortfall
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_group
from ring_async.types import PolicyVersion


def make_buffer(*groups, **rules):
    defaults = {"token_budget": 10, "token_capacity": 32, "max_staleness": 2}
    buffer = ReplayBuffer(BufferRules(**(defaults | rules)))
    for group in groups:
        put(buffer, group)
    return buffer


def put(buffer, group, is_masked=None):
    size = len(group.header.trajectories)
    record = make_record(group.header, np.linspace(1, -1, size), group.loss_mask, buffer.next_arrival)
    buffer.add(record, buffer.admit(record, is_masked or [False] * size))


def plan(buffer, number=None, **options):
    number = buffer.last_plan + 1 if number is None else number
    learner = options.pop("learner", PolicyVersion(0, number - 1))
    evicted = buffer.evict(learner)
    buffer.apply(evicted)
    change = buffer.plan(number, learner, **options)
    if not isinstance(change, Shortfall):
        buffer.apply(change)
    return change


def intervals(change):
    return [msgspec.structs.astuple(sequence.interval) for sequence in change.plan.sequences]


def states(change):
    return [(moved.trajectory_id, moved.state, moved.cause) for moved in change.moved]


def test_the_remainder_is_trained_next_with_its_advantage():
    buffer = make_buffer(make_group("a", lengths=[6, 6]), make_group("b", lengths=[6, 6]), order="fifo")
    first, second = plan(buffer), plan(buffer)
    assert intervals(first) == [("a/0", 0, 6), ("a/1", 0, 4)]
    assert intervals(second) == [("a/1", 4, 6), ("b/0", 0, 6), ("b/1", 0, 2)]
    assert [s.advantage for s in second.plan.sequences] == [-1.0, 1.0, -1.0]
    assert buffer.trainable_tokens == 4
    assert plan(buffer).reason == "4 of 10 eligible tokens"


def test_drop_gives_the_cut_tail_away():
    buffer = make_buffer(make_group("a", lengths=[6, 6]), make_group("b", lengths=[6, 6]), order="fifo", carry=False)
    change = plan(buffer)
    assert states(change) == [("a/0", "consumed", ""), ("a/1", "dropped", "leftover")]
    assert intervals(plan(buffer)) == [("b/0", 0, 6), ("b/1", 0, 4)]


def test_without_staleness_nothing_can_be_carried():
    buffer = make_buffer(make_group("a", lengths=[6, 6]), max_staleness=0, order="fifo")
    assert states(plan(buffer)) == [("a/0", "consumed", ""), ("a/1", "dropped", "leftover")]


def test_the_last_chance_is_taken_whole():
    old, fresh = make_group("old", lengths=[7, 7]), make_group("new", lengths=[7, 7], versions=2)
    buffer = make_buffer(old, fresh)
    buffer.last_plan = 2
    change = plan(buffer)  # learner version 2: `old` may not be cut, for its remainder would be 3 versions old
    assert [n for _, start, n in intervals(change) if start == 0] == [7, 3]
    assert change.plan.sequences[0].staleness == 2
    assert change.plan.sequences[1].staleness == 0


def test_eviction_is_counted_with_what_was_never_trained():
    buffer = make_buffer(make_group("a", lengths=[6, 6]), order="fifo")
    plan(buffer)
    change = buffer.evict(PolicyVersion(0, 3))
    assert states(change) == [("a/1", "evicted", "stale")]
    assert change.moved[0].num_tokens == 2
    buffer.apply(change)
    assert buffer.trainable_tokens == 0
    assert "a" in buffer  # the payload stays until a checkpoint covers the batch that used it


def test_payloads_go_when_a_checkpoint_covers_their_last_batch():
    buffer = make_buffer(make_group("a", lengths=[6, 6]), make_group("b", lengths=[6, 6]), order="fifo")
    plan(buffer)
    plan(buffer)
    first = buffer.cover(1)
    assert (states(first), first.released) == ([("a/0", "retired", "")], ())
    buffer.apply(first)
    second = buffer.cover(2)
    assert second.released == ("a",)
    assert states(second) == [("a/1", "retired", ""), ("b/0", "retired", "")]
    buffer.apply(second)
    assert ("a" in buffer, "b" in buffer, buffer.covered) == (False, True, 2)
    assert buffer.cover(1).released == ()


def test_never_planned_and_evicted_goes_at_once():
    buffer = make_buffer(make_group("a", lengths=[6, 6]))
    assert buffer.evict(PolicyVersion(0, 9)).released == ("a",)


def test_reuse_trains_every_token_so_often_and_no_more():
    buffer = make_buffer(make_group("a", lengths=[5, 5]), max_reuse=2, order="fifo")
    assert buffer.trainable_tokens == 20
    assert intervals(plan(buffer)) == intervals(plan(buffer)) == [("a/0", 0, 5), ("a/1", 0, 5)]
    assert isinstance(plan(buffer), Shortfall)
    assert buffer.cover(2).released == ("a",)


def test_a_stale_trajectory_that_was_trained_once_is_retired_not_evicted():
    buffer = make_buffer(make_group("a", lengths=[5, 5]), max_reuse=2)
    plan(buffer)
    change = buffer.evict(PolicyVersion(0, 9))
    assert states(change) == []
    buffer.apply(change)
    assert states(buffer.cover(1)) == [("a/0", "retired", ""), ("a/1", "retired", "")]


def test_lowering_max_reuse_closes_what_has_had_enough():
    buffer = make_buffer(make_group("a", lengths=[5, 5]), max_reuse=3)
    plan(buffer)
    buffer.tune(BufferRules(token_budget=10, token_capacity=32, max_staleness=2, max_reuse=1))
    buffer.apply(buffer.evict(PolicyVersion(0, 1)))
    assert buffer.trainable_tokens == 0
    assert buffer.cover(1).released == ("a",)


def test_retention_evicts_the_oldest_first():
    groups = [make_group(f"g{n}", lengths=[5, 5], versions=n) for n in range(3)]
    buffer = make_buffer(*groups, max_buffer_tokens=20, max_staleness=9)
    change = buffer.evict(PolicyVersion(0, 2))
    assert states(change) == [("g0/0", "evicted", "retention"), ("g0/1", "evicted", "retention")]


def test_what_cannot_be_trained_is_dropped_with_its_cause():
    buffer = make_buffer(token_capacity=8)
    group = make_group("a", rewards=[1, 0, 0], lengths=[4, 6, 4], num_prompt_tokens=3)
    group.loss_mask[10:] = 0
    put(buffer, group, is_masked=[True, False, False])
    causes = [(one.state, one.cause) for one in buffer.progress("a")]
    assert causes == [("dropped", "truncated"), ("dropped", "row_too_short"), ("dropped", "no_loss_tokens")]


def test_intervals_count_loss_tokens_and_tile_the_response():
    group = make_group("a", lengths=[10, 10])
    group.loss_mask[[0, 3, 4, 9]] = 0
    buffer = make_buffer(group, token_budget=4, order="fifo")
    record = buffer.record("a")
    assert num_loss_tokens(record, 0) == 6
    assert msgspec.structs.astuple(token_interval(record, 0, 0, 2)) == ("a/0", 0, 3)
    assert msgspec.structs.astuple(token_interval(record, 0, 2, 4)) == ("a/0", 3, 7)
    assert msgspec.structs.astuple(token_interval(record, 0, 4, 6)) == ("a/0", 7, 10)
    assert intervals(plan(buffer)) == [("a/0", 0, 7)]


def test_a_final_batch_may_be_short():
    buffer = make_buffer(make_group("a", lengths=[3, 3]))
    change = plan(buffer, is_final=True)
    assert change.plan.is_final
    assert sum(end - start for _, start, end in intervals(change)) == 6


def test_only_the_next_number_is_planned():
    with pytest.raises(ValueError, match="batch 3 was asked for, but the next one is 1"):
        plan(make_buffer(make_group("a", lengths=[6, 6])), 3)


def test_a_fork_measures_lost_versions_from_the_last_logged_batch():
    buffer = make_buffer(make_group("a", lengths=[5, 5]), make_group("b", lengths=[5, 5], versions=4), max_staleness=9)
    plan(buffer)
    buffer.apply(buffer.fork(1))
    change = plan(buffer, learner=PolicyVersion(1, 4))
    assert change.plan.sequences[0].staleness == 3  # (0, 4) counts as version 1, which batch 1 makes again


def test_rules_without_any_batch_are_refused():
    buffer = make_buffer(make_group("a", lengths=[5, 5]))
    with pytest.raises(ConfigError, match="smaller than one batch"):
        buffer.tune(BufferRules(token_budget=10, token_capacity=32, max_buffer_tokens=9))
    assert buffer.rules.token_budget == 10


def test_shards_keep_enough_for_a_batch_however_many_there_are():
    """A bound of 15 over 4 shards is 4 tokens each: less than a batch's part of 10 and the one response of 2 that
    crosses it.
    """
    shards = [make_buffer(max_buffer_tokens=15, num_shards=4) for _ in range(4)]
    for number, shard in enumerate(shards):
        for i in range(6):
            put(shard, make_group(f"s{number}-{i}", lengths=[2, 2]))
        shard.apply(shard.evict(PolicyVersion(0, 0)))
        assert 3 <= shard.trainable_tokens <= 5
    assert sum(shard.trainable_tokens for shard in shards) >= 10

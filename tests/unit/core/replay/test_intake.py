"""What becomes of scored groups, decided without a store: the buffer is looked at and left alone."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from ring_async.core.advantages import AdvantageRules, group_advantages
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.intake import decide_intake
from ring_async.testing.builders import VERIFIER, make_group
from ring_async.trajectory_states import EndCause, TrajectoryStatus
from ring_async.types import EpochRules, PolicyVersion

RULES = BufferRules(token_budget=10, token_capacity=32, max_staleness=2, order="fifo")
ADVANTAGES = AdvantageRules()


def decide(groups, buffer, known=(), **options):
    return decide_intake(groups, buffer, known, lambda header: group_advantages(header, ADVANTAGES), **options)


def put_in_force(intake, buffer):
    buffer.apply(intake.change)
    for group_id, one in intake.admitted.items():
        (buffer.replace if group_id in intake.judged_again else buffer.add)(one.record, one.progress)


def outcomes(intake):
    return [(receipt.group_id, receipt.outcome.value) for receipt in intake.receipts]


def moves(intake):
    return [(moved.trajectory_id, moved.state, moved.cause) for moved in intake.moved]


def test_groups_are_buffered_dropped_or_held_already():
    buffer = ReplayBuffer(RULES)
    groups = [make_group("a"), make_group("b", rewards=[1, 1]), make_group("a"), make_group("c")]
    intake = decide(groups, buffer, known={"c"})
    assert outcomes(intake) == [("a", "buffered"), ("b", "dropped"), ("a", "duplicate"), ("c", "duplicate")]
    assert list(intake.admitted) == ["a"]
    assert intake.admitted["a"].group is groups[0]
    assert [one.cause for one in intake.ended["b"]] == [EndCause.NO_SIGNAL] * 2
    assert moves(intake) == [
        ("a/0", TrajectoryStatus.BUFFERED, ""),
        ("a/1", TrajectoryStatus.BUFFERED, ""),
        ("b/0", TrajectoryStatus.DROPPED, "no_signal"),
        ("b/1", TrajectoryStatus.DROPPED, "no_signal"),
    ]
    assert [moved.reward for moved in intake.moved] == [1.0, 0.0, 1.0, 1.0]
    assert len(buffer) == 0, "deciding changes nothing"


def unjudged(group_id, rewards):
    """A group whose responses with reward None made the verifier crash."""
    group = make_group(group_id, rewards=rewards)
    trajectories = tuple(
        msgspec.structs.replace(one, failure="" if one.reward is not None else "crash")
        for one in group.header.trajectories
    )
    return replace(group, header=msgspec.structs.replace(group.header, trajectories=trajectories))


def test_a_response_that_could_not_be_judged_fails_alone():
    buffer = ReplayBuffer(RULES)
    intake = decide([unjudged("a", [1, None, 0]), unjudged("b", [1, None, 1])], buffer)
    assert outcomes(intake) == [("a", "buffered"), ("b", "dropped")]
    assert moves(intake) == [
        ("a/0", TrajectoryStatus.BUFFERED, ""),
        ("a/1", TrajectoryStatus.FAILED, "unjudged"),
        ("a/2", TrajectoryStatus.BUFFERED, ""),
        ("b/0", TrajectoryStatus.DROPPED, "no_signal"),
        ("b/1", TrajectoryStatus.FAILED, "unjudged"),
        ("b/2", TrajectoryStatus.DROPPED, "no_signal"),
    ]
    alone = decide([make_group("a", rewards=[1, 0])], buffer).admitted["a"].record.advantages
    assert intake.admitted["a"].record.advantages == (alone[0], 0.0, alone[1])


def test_only_copies_leave_nothing_to_commit():
    buffer = ReplayBuffer(RULES)
    buffer.apply(buffer.bar({}))
    assert decide([make_group("a")], buffer, known={"a"}, cover=3).is_empty
    assert decide([], buffer).is_empty


def test_arrivals_count_what_is_admitted():
    buffer = ReplayBuffer(RULES)
    intake = decide([make_group("a"), make_group("b", rewards=[0, 0]), make_group("c")], buffer)
    assert [one.record.arrival for one in intake.admitted.values()] == [1, 2]
    put_in_force(intake, buffer)
    later = decide([make_group("d")], buffer)
    assert later.admitted["d"].record.arrival == 3


def test_a_response_too_long_for_a_row_is_dropped_and_the_group_kept():
    intake = decide([make_group("a", lengths=[6, 40])], ReplayBuffer(RULES))
    assert outcomes(intake) == [("a", "buffered")]
    assert moves(intake)[1] == ("a/1", TrajectoryStatus.DROPPED, EndCause.ROW_TOO_SHORT)


def test_rewards_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="a"):
        decide([make_group("a", rewards=[np.nan, 1.0])], ReplayBuffer(RULES))


def test_what_a_checkpoint_covers_is_released_with_the_next_commit():
    buffer = ReplayBuffer(RULES)
    put_in_force(decide([make_group("a", lengths=[5, 5])], buffer), buffer)
    buffer.apply(buffer.plan(1, PolicyVersion(0, 0)))
    intake = decide([make_group("b")], buffer, known={"a"}, cover=1)
    assert intake.change.released == ("a",)
    assert moves(intake)[2:] == [("a/0", TrajectoryStatus.RETIRED, ""), ("a/1", TrajectoryStatus.RETIRED, "")]


def judged(group_id, epoch, rewards=(1.0, 0.0)):
    return make_group(group_id, rewards=rewards, verifier=msgspec.structs.replace(VERIFIER, epoch=epoch))


@pytest.fixture
def barred_buffer():
    """Group `a` was judged by epoch 0, and only epochs from 1 on may be trained on."""
    buffer = ReplayBuffer(RULES)
    put_in_force(decide([judged("a", 0)], buffer), buffer)
    buffer.apply(buffer.bar({VERIFIER.name: EpochRules(floor=1)}))
    return buffer


def test_a_verdict_by_an_epoch_in_force_replaces_the_barred_one(barred_buffer):
    intake = decide([judged("a", 0), judged("a", 1, (0.0, 1.0)), judged("a", 1)], barred_buffer, known={"a"})
    assert outcomes(intake) == [("a", "duplicate"), ("a", "buffered"), ("a", "duplicate")]
    assert intake.judged_again == {"a"}
    assert intake.admitted["a"].record.arrival == 1
    assert intake.admitted["a"].record.advantages[0] < 0 < intake.admitted["a"].record.advantages[1]
    put_in_force(intake, barred_buffer)
    assert barred_buffer.barred() == ()


def test_a_new_verdict_without_signal_releases_the_group(barred_buffer):
    intake = decide([judged("a", 1, (1.0, 1.0))], barred_buffer, known={"a"})
    assert outcomes(intake) == [("a", "dropped")]
    assert (intake.admitted, intake.ended, intake.change.released) == ({}, {}, ("a",))
    assert [one.cause for one in intake.change.progress["a"]] == [EndCause.NO_SIGNAL] * 2
    assert not intake.is_empty

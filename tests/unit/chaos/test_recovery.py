"""An actor has recovered once another process has produced something under its name."""

from __future__ import annotations

import pytest

from ring_async.chaos.recovery import Seen, bystanders_lost, has_successor, is_recovered
from ring_async.core.roster import Role
from ring_async.records.figures import LearnerFigures, ReplayFigures, RewardFigures, RolloutFigures
from ring_async.records.status import ActorStatus, LedgerCounts, RunStatus


def seen(*actors: ActorStatus, controller: int = 1, reserved: int = 8) -> Seen:
    return Seen(RunStatus(actors=actors, ledger=LedgerCounts(reserved=reserved)), controller)


def actor(actor_id: str, pid: int | None, counters: object = None) -> ActorStatus:
    return ActorStatus(actor_id=actor_id, pid=pid, counters=counters)


@pytest.mark.parametrize(
    ("role", "idle", "busy"),
    [
        (Role.ROLLOUT, RolloutFigures(running=4), RolloutFigures(generated_tokens=1)),
        (Role.REWARD, RewardFigures(busy_s=1.0), RewardFigures(verdicts=8)),
        (Role.REPLAY, ReplayFigures(groups=12), ReplayFigures(commits=1)),
        (Role.LEARNER, LearnerFigures(policy_version=3), LearnerFigures(steps=1)),
    ],
)
def test_a_successor_counts_once_it_is_productive(role, idle, busy):
    name = f"{role}-0"
    before = seen(actor(name, 10, busy))
    assert not is_recovered(role, name, before, seen(actor(name, 10, busy))), "the old process still answers"
    assert not is_recovered(role, name, before, seen(actor(name, None))), "there is none"
    assert not is_recovered(role, name, before, seen(actor(name, 11)))
    assert not is_recovered(role, name, before, seen(actor(name, 11, idle)))
    assert is_recovered(role, name, before, seen(actor(name, 11, busy)))


def test_a_controller_counts_once_another_one_grants_work():
    before = seen(controller=1, reserved=80)
    name = "controller-0"
    assert not is_recovered(Role.CONTROLLER, name, before, seen(controller=1, reserved=88))
    assert not is_recovered(Role.CONTROLLER, name, before, seen(controller=2, reserved=80))
    assert has_successor(Role.CONTROLLER, name, before, seen(controller=2, reserved=80))
    assert is_recovered(Role.CONTROLLER, name, before, seen(controller=2, reserved=88))


def test_bystanders_are_those_that_nobody_struck():
    before = seen(actor("rollout-0", 10), actor("reward-0", 20), actor("learner-0", 30), actor("replay-0", None))
    now = seen(actor("rollout-0", 11), actor("reward-0", 21), actor("learner-0", 30), actor("replay-0", 40))
    assert bystanders_lost(frozenset({"rollout-0"}), before, now) == ["reward-0"]

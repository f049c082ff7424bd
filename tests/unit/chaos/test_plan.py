"""Strikes are drawn from a seed, and cover every kind before they repeat one."""

from __future__ import annotations

import itertools

from ring_async.chaos.plan import LONGEST_PAUSE_S, Fault, Phase, injections
from ring_async.core.roster import Role

ROLES = [Role.CONTROLLER, Role.REPLAY, Role.LEARNER, Role.REWARD, Role.ROLLOUT]
NUM_KINDS = len(ROLES) * len(Phase) + len(ROLES) + 10
"""Each role killed in each phase, each frozen, each of ten pairs killed at once."""


def first(number, seed=7):
    return list(itertools.islice(injections(seed, ROLES), number))


def test_every_kind_comes_once_before_any_comes_twice():
    drawn = first(2 * NUM_KINDS)
    assert [one.number for one in drawn] == list(range(1, 2 * NUM_KINDS + 1))
    early, late = {one.kind for one in drawn[:NUM_KINDS]}, {one.kind for one in drawn[NUM_KINDS:]}
    assert len(early) == NUM_KINDS
    assert early == late
    assert all(0.5 <= one.pause_s <= LONGEST_PAUSE_S for one in drawn)


def test_a_seed_is_a_plan():
    assert first(50) == first(50)
    assert first(50) != first(50, seed=8)


def test_pairs_are_of_two_roles_and_freezes_of_one():
    for one in first(NUM_KINDS):
        assert len(set(one.victims)) == len(one.victims) <= 2
        if one.fault is Fault.FREEZE or one.phase is not Phase.WORK:
            assert len(one.victims) == 1

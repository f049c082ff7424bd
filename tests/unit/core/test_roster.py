"""Who is part of a fleet, under which ids, and where each may run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ring_async
from ring_async.core.roster import (
    CONTROLLER_ID,
    LEARNER_ID,
    LEAVING_ORDER,
    PLANNER_ID,
    RESIDENCE,
    SCALABLE,
    Residence,
    Role,
    Roster,
    id_of,
    ordinal_of,
)
from ring_async.testing.builders import make_config

counts = st.integers(0, 12)


def test_a_fleet_is_named_by_role_and_number():
    roster = Roster(rollout=2, reward=1, replay=1, learner=2, evaluator=0)
    assert dict(roster.actors()) == {
        "controller-0": Role.CONTROLLER, "replay-0": Role.REPLAY, "learner-0": Role.LEARNER, "learner-1": Role.LEARNER,
        "reward-0": Role.REWARD, "rollout-0": Role.ROLLOUT, "rollout-1": Role.ROLLOUT,
    }  # fmt: skip


@given(counts, counts, counts, counts, counts)
def test_ids_agree_with_counts(rollout: int, reward: int, replay: int, learner: int, evaluator: int):
    roster = Roster(rollout=rollout, reward=reward, replay=replay, learner=learner, evaluator=evaluator)
    actors = list(roster.actors())
    assert len(dict(actors)) == len(actors) == sum(roster.counts.values())
    for actor_id, role in actors:
        assert id_of(role, ordinal_of(actor_id)) == actor_id
        assert ordinal_of(actor_id) < roster.counts[role]


def test_needs_count_every_actor_of_a_role_and_leave_out_what_has_no_share():
    roster = Roster(rollout=3, reward=1, replay=1, learner=2, evaluator=0)
    needs = roster.needs({Role.ROLLOUT: 0.5, Role.LEARNER: 4.0, Role.EVALUATOR: 9.0})
    assert needs[Role.ROLLOUT] == 1.5
    assert needs[Role.LEARNER] == 8.0
    assert sum(needs.values()) == 9.5


def test_those_whom_others_address_by_name_are_the_first_of_their_role():
    assert (CONTROLLER_ID, LEARNER_ID, PLANNER_ID) == ("controller-0", "learner-0", "replay-0")


def test_every_role_but_the_controller_leaves_once_and_has_a_residence():
    leaving = [role for roles in LEAVING_ORDER for role in roles]
    assert sorted(leaving) == sorted(set(Role) - {Role.CONTROLLER})
    assert set(RESIDENCE) == set(Role)


def test_only_roles_that_keep_nothing_can_be_scaled():
    assert {RESIDENCE[role] for role in SCALABLE} == {Residence.ANYWHERE}


@pytest.mark.parametrize(("every_versions", "num"), [(0, 0), (5, 1)])
def test_a_configuration_s_roster_counts_one_learner_of_any_ranks_and_its_evaluator(every_versions: int, num: int):
    config = make_config(rollout__num=3, learner__parallel__data=4, evaluation__every_versions=every_versions)
    assert config.roster == Roster(rollout=3, reward=1, replay=1, learner=1, evaluator=num)


def test_no_id_of_an_actor_is_written_out_elsewhere():
    written = re.compile(rf"""["']({"|".join(Role)})-\d*["'{{]""")
    root = Path(ring_async.__file__).parent
    found = {str(path.relative_to(root)): written.findall(path.read_text()) for path in root.rglob("*.py")}
    assert {path: roles for path, roles in found.items() if roles} == {"placement/places.py": ["rollout"]}, "an example"

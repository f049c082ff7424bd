"""Which processes run, who counts as alive, and when an actor is given up."""

from __future__ import annotations

import pytest

from ring_async.core.fleet.fleet import Fleet
from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.roster import ActorSpec, Role


def make_fleet(*, max_restarts: int = 2, heartbeat_timeout_s: float = 10.0, start_timeout_s: float = 60.0) -> Fleet:
    return Fleet(RestartPolicy(max_restarts, window_s=100.0), heartbeat_timeout_s, start_timeout_s)


def test_wanted_actors_are_numbered_within_their_role():
    fleet = make_fleet()
    fleet.want(Role.ROLLOUT, 2, now_s=0.0)
    fleet.want(Role.REWARD, 1, now_s=0.0)
    assert fleet.wanted(0.0) == [
        ActorSpec("rollout-0", Role.ROLLOUT, 0),
        ActorSpec("rollout-1", Role.ROLLOUT, 0),
        ActorSpec("reward-0", Role.REWARD, 0),
    ]


def test_scaling_down_names_the_newest_first_and_lets_them_finish():
    fleet = make_fleet()
    fleet.want(Role.ROLLOUT, 12, now_s=0.0)
    leaving = fleet.want(Role.ROLLOUT, 9, now_s=1.0, leave_s=20.0)
    assert [key.actor_id for key in leaving] == ["rollout-11", "rollout-10", "rollout-9"]
    assert fleet.want(Role.ROLLOUT, 9, now_s=2.0) == [], "they were told"
    assert len(fleet.wanted(2.0)) == 12, "they finish what they have"
    left = fleet.exited("rollout-11", 0, "returned", now_s=5.0)
    assert left.has_left
    assert left.lost == ActorSpec("rollout-11", Role.ROLLOUT, 0)
    assert [change.lost.actor_id for change in fleet.expire(21.5)] == ["rollout-9", "rollout-10"]
    assert len(fleet.wanted(22.0)) == 9


def test_one_that_was_leaving_and_is_wanted_again_comes_back_as_a_new_incarnation():
    fleet = make_fleet()
    fleet.want(Role.REWARD, 2, now_s=0.0)
    fleet.want(Role.REWARD, 1, now_s=1.0, leave_s=20.0)
    fleet.want(Role.REWARD, 2, now_s=2.0)
    assert fleet.is_leaving("reward-1")
    fleet.exited("reward-1", 0, "returned", now_s=3.0)
    assert ActorSpec("reward-1", Role.REWARD, 1) in fleet.wanted(3.0)
    fleet.want(Role.REWARD, 1, now_s=4.0)
    fleet.exited("reward-1", 1, "returned", now_s=5.0)
    fleet.want(Role.REWARD, 2, now_s=6.0)
    assert ActorSpec("reward-1", Role.REWARD, 2) in fleet.wanted(6.0)


def test_a_dead_actor_comes_back_as_the_next_incarnation_after_a_delay():
    fleet = make_fleet()
    fleet.want(Role.REWARD, 1, now_s=0.0)
    change = fleet.exited("reward-0", 0, "its process was killed", now_s=5.0)
    assert change.lost == ActorSpec("reward-0", Role.REWARD, 0)
    assert change.given_up == ""
    assert fleet.wanted(5.1) == []
    assert fleet.wanted(5.2) == [ActorSpec("reward-0", Role.REWARD, 1)]


def test_messages_of_an_older_incarnation_do_not_count():
    fleet = make_fleet()
    fleet.want(Role.REWARD, 1, now_s=0.0)
    fleet.exited("reward-0", 0, "killed", now_s=1.0)
    assert not fleet.saw("reward-0", 0, now_s=2.0)
    assert fleet.saw("reward-0", 1, now_s=2.0)
    assert fleet.exited("reward-0", 0, "killed", now_s=3.0).lost is None, "a late report of a death already handled"


def test_delays_double_and_the_actor_is_given_up():
    fleet = make_fleet(max_restarts=2)
    fleet.want(Role.REWARD, 1, now_s=0.0)
    delays = []
    for incarnation in range(2):
        now_s = float(incarnation)
        assert not fleet.exited("reward-0", incarnation, "killed", now_s).given_up
        delays.append(next(d / 10 for d in range(100) if fleet.wanted(now_s + d / 10 + 1e-9)))
    assert delays == [0.2, 0.4]
    given_up = fleet.exited("reward-0", 2, "killed", now_s=3.0).given_up
    assert given_up == "reward-0 died 3 times within 100 s, last: killed"


def test_deaths_outside_the_window_are_forgotten():
    fleet = make_fleet(max_restarts=1)
    fleet.want(Role.REWARD, 1, now_s=0.0)
    for incarnation in range(5):
        assert not fleet.exited("reward-0", incarnation, "killed", now_s=200.0 * incarnation).given_up


def test_silent_and_unregistered_actors_expire():
    fleet = make_fleet(heartbeat_timeout_s=10.0, start_timeout_s=60.0)
    fleet.want(Role.ROLLOUT, 2, now_s=0.0)
    fleet.saw("rollout-0", 0, now_s=1.0)
    assert fleet.expire(11.0) == []
    (silent,) = fleet.expire(11.5)
    assert silent.lost == ActorSpec("rollout-0", Role.ROLLOUT, 0)
    assert "no heartbeat" in silent.notice
    (late,) = [change for change in fleet.expire(60.5) if change.lost.actor_id == "rollout-1"]
    assert "did not register" in late.notice


@pytest.mark.parametrize("known", [3, 0])
def test_incarnations_survive_a_restart_of_the_controller(known: int):
    fleet = make_fleet()
    fleet.want(Role.ROLLOUT, 1, now_s=0.0)
    fleet.adopt({"rollout-0": known, "rollout-7": 5})
    assert fleet.incarnations() == {"rollout-0": known, "rollout-7": 5}
    fleet.want(Role.ROLLOUT, 8, now_s=1.0)
    assert ActorSpec("rollout-7", Role.ROLLOUT, 6) in fleet.wanted(1.0)


def test_the_loss_of_a_host_is_nobody_s_death():
    fleet = make_fleet(max_restarts=1)
    fleet.want(Role.ROLLOUT, 1, now_s=0.0)
    for incarnation in range(5):
        change = fleet.exited("rollout-0", incarnation, "its host is gone", now_s=float(incarnation), is_host_lost=True)
        assert change.given_up == ""
        assert "lost" in change.notice
        assert fleet.wanted(float(incarnation)) == [ActorSpec("rollout-0", Role.ROLLOUT, incarnation + 1)], "at once"


def test_a_death_that_turns_out_to_be_its_host_s_is_forgiven():
    fleet = make_fleet(max_restarts=1, heartbeat_timeout_s=10.0)
    fleet.want(Role.ROLLOUT, 1, now_s=0.0)
    for incarnation, now_s in ((0, 0.0), (1, 20.0), (2, 40.0)):
        assert fleet.saw("rollout-0", incarnation, now_s)
        (change,) = fleet.expire(now_s + 11.0)
        assert not change.given_up
        late = fleet.exited("rollout-0", incarnation, "its host is gone", now_s + 12.0, is_host_lost=True)
        assert late.lost is None, "it was counted dead already"


def test_an_actor_without_a_place_waits_as_long_as_it_takes():
    fleet = make_fleet(start_timeout_s=60.0)
    fleet.want(Role.ROLLOUT, 2, now_s=0.0)
    waiting = {("rollout-1", 0): "room for CPU 1 on any host"}
    assert fleet.seek_places(waiting, 10.0) == ["rollout-1"]
    assert fleet.seek_places(waiting, 55.0) == [], "it is known"
    assert fleet.waits_for_place(70.0) == {"rollout-1": ("room for CPU 1 on any host", 60.0)}
    assert [change.lost.actor_id for change in fleet.expire(61.0)] == ["rollout-0"], "its time to start ran"
    assert ActorSpec("rollout-1", Role.ROLLOUT, 0) in fleet.wanted(55.0), "the launcher goes on to look for a place"
    assert fleet.seek_places({}, 200.0) == []
    assert fleet.waits_for_place(200.0) == {}
    assert [change.lost.actor_id for change in fleet.expire(200.0)] == ["rollout-0", "rollout-1"], "it runs again"


def test_places_of_actors_whose_restart_is_delayed_are_kept():
    fleet = make_fleet()
    fleet.want(Role.ROLLOUT, 2, now_s=0.0)
    fleet.exited("rollout-1", 0, "killed", now_s=1.0)
    assert [key.actor_id for key in fleet.wanted(1.0)] == ["rollout-0"]
    assert fleet.actor_ids == ("rollout-0", "rollout-1")


def test_time_in_which_nothing_could_be_read_is_nobody_s_silence():
    fleet = make_fleet(heartbeat_timeout_s=10.0, start_timeout_s=60.0)
    fleet.want(Role.ROLLOUT, 3, now_s=0.0)
    fleet.want(Role.ROLLOUT, 2, now_s=0.0, leave_s=30.0)
    assert fleet.saw("rollout-0", 0, now_s=9.0)
    fleet.postpone(100.0)  # the controller was stopped from second 10 to second 110
    assert fleet.expire(110.0) == []
    assert [change.lost.actor_id for change in fleet.expire(119.5)] == ["rollout-0"], "silent for 10.5 s that count"
    assert [change.lost.actor_id for change in fleet.expire(131.0)] == ["rollout-2"], "31 s to leave"
    assert [change.lost.actor_id for change in fleet.expire(161.0)] == ["rollout-1"], "61 s to register"

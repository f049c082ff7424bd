"""Which host an actor is bound to, and what is asked of Ray for it."""

from __future__ import annotations

import pytest

from ring_async.config.tunable import tuned
from ring_async.errors import ConfigError
from ring_async.placement.places import bound_to, bundle_of, check_state_stays, one_host_only
from ring_async.testing.builders import make_config

OWN = "10.0.0.1"
ACROSS = {"transport__kind": "tcp", "weights__channel": "zmq"}


@pytest.mark.parametrize("role", ["controller", "replay", "learner", "evaluator"])
def test_who_keeps_state_runs_on_the_launcher_s_host(role):
    assert bound_to(make_config(**ACROSS), f"{role}-0", role, OWN) == OWN


@pytest.mark.parametrize("role", ["rollout", "reward"])
def test_who_keeps_nothing_runs_anywhere_unless_the_transport_reaches_one_host_only(role):
    assert bound_to(make_config(**ACROSS), f"{role}-0", role, OWN) == ""
    assert bound_to(make_config(), f"{role}-0", role, OWN) == OWN
    assert bound_to(make_config(**ACROSS, transport__host=OWN), f"{role}-0", role, OWN) == OWN


def test_what_keeps_a_fleet_on_one_host_is_named_with_its_remedy():
    assert one_host_only(make_config(**ACROSS)) == ""
    assert "set transport.kind=tcp" in one_host_only(make_config())
    assert "set weights.channel=zmq" in one_host_only(make_config(transport__kind="tcp"))
    assert "set transport.host=auto" in one_host_only(make_config(**ACROSS, transport__host="127.0.0.1"))


def test_a_configuration_resolved_for_a_host_is_still_a_good_one():
    config = make_config(**ACROSS, placement__hosts={"replay": ["10.0.0.2"]})
    assert tuned(config.at(OWN), {"learner.learning_rate": 1e-5}).transport.address == OWN


def test_placement_hosts_are_taken_by_turns_and_the_same_for_every_start():
    config = make_config(**ACROSS, placement__hosts={"replay": ["10.0.0.2", "10.0.0.3"]})
    assert [bound_to(config, f"replay-{index}", "replay", OWN) for index in (0, 1, 2, 10)] == [
        "10.0.0.2", "10.0.0.3", "10.0.0.2", "10.0.0.2",
    ]  # fmt: skip


def test_a_bundle_asks_for_the_role_s_share_on_its_host():
    config = make_config(**ACROSS, placement__cpus={"learner": 2.0}, placement__gpus={"learner": 1.0})
    assert bundle_of(config, "learner", OWN) == {"CPU": 2.0, "GPU": 1.0, "node:10.0.0.1": 0.001}
    assert bundle_of(config, "rollout", "") == {"CPU": 0.001}, "Ray refuses a group that asks for nothing"


def test_a_resumed_run_looks_for_its_state_where_it_lies():
    before = make_config(**ACROSS, placement__hosts={"replay": ["10.0.0.2"]})
    check_state_stays(before, before)
    check_state_stays(before, make_config(**ACROSS, placement__hosts={"replay": ["10.0.0.2"], "rollout": ["10.0.0.9"]}))
    with pytest.raises(ConfigError, match=r"placement.hosts.replay: the host of `up` holds nothing .* on 10.0.0.2"):
        check_state_stays(before, make_config(**ACROSS))

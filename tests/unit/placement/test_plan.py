"""Who would run where on a cluster that is only described."""

from __future__ import annotations

import pytest

from ring_async.core.roster import Role
from ring_async.errors import ConfigError
from ring_async.placement.plan import Room, lines_of, plan_fleet
from ring_async.testing.builders import make_config

ACROSS = {"transport__kind": "tcp", "weights__channel": "zmq"}
ROOM = Room(cpus=10, gpus=2)


def fleet(**overrides: object):
    settings = {
        "rollout__num": 3,
        "reward__num": 2,
        "learner__parallel": {"shard": 4, "hosts": 2},
        "placement__cpus": {"controller": 1, "replay": 1, "learner": 4, "rollout": 2, "reward": 3},
        "placement__gpus": {"learner": 2, "rollout": 1},
    }
    return make_config(**ACROSS | settings | overrides)


def test_the_learner_s_hosts_come_first_and_the_others_go_where_room_is():
    hosts = plan_fleet(fleet(), 4, ROOM)
    assert [list(host.ranks) for host in hosts] == [[0, 1], [2, 3], [], []]
    assert hosts[0].actors == {Role.CONTROLLER: 1, Role.REPLAY: 1, Role.LEARNER: 1}
    assert [host.actors[Role.ROLLOUT] for host in hosts] == [0, 0, 2, 1]
    assert sum(host.actors[Role.REWARD] for host in hosts) == 2
    assert all(host.free.cpus >= 0 <= host.free.gpus for host in hosts)


def test_hosts_that_hold_the_same_are_one_line():
    assert list(lines_of(plan_fleet(fleet(reward__num=1), 5, ROOM), ROOM)) == [
        "host 0: learner ranks 0–1, 1 controller, 1 replay; 2 of 2 GPUs and 6 of 10 CPUs of a host",
        "host 1: learner ranks 2–3; 2 of 2 GPUs and 4 of 10 CPUs of a host",
        "host 2: 1 reward, 1 rollout; 1 of 2 GPUs and 5 of 10 CPUs of a host",
        "hosts 3–4: 1 rollout each; 1 of 2 GPUs and 2 of 10 CPUs of a host",
    ]


@pytest.mark.parametrize(
    ("overrides", "num_hosts", "line"),
    [
        ({}, 1, "learner.parallel.hosts: 2 of 1 hosts"),
        ({}, 3, "placement: no room for one more rollout (CPU 2, GPU 1) on any host: most room is CPU 6, GPU 0"),
        ({"replay__num": 6}, 4, "placement: no room for one more replay (CPU 1) on host 0: most room is CPU 0, GPU 0"),
    ],
    ids=["too few hosts", "no GPU left", "bound to a full host"],
)
def test_an_actor_without_room_is_named(overrides: dict[str, object], num_hosts: int, line: str):
    with pytest.raises(ConfigError) as refused:
        plan_fleet(fleet(**overrides), num_hosts, ROOM)
    assert str(refused.value).startswith(line)

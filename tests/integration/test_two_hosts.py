"""One run over two hosts, and a host that goes and comes back.

Both are network namespaces of this machine with nothing in common but the wire and the installed package: `/tmp`, where
the run's folder, a person's verifiers and Ray's sockets lie, and `/dev/shm` are private to each.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet_on_hosts import DEADLINE_S, FleetOnHosts, fleet_on_hosts, refusals_of
from network_hosts import CannotMakeHostsError, Wire, knock, ray_environment, start_ray, why_not, wire
from ring_async.models import resolve_model_path
from ring_async.storage.audit import audit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

TOKEN_BUDGET = 1024
MAX_STALENESS = 4
OVERRIDES = (
    "rollout.num=1", "reward.num=2", "verifiers.logic.use=/tmp/mine.py:Mine",
    # One rollout and one reward actor fit beside what is bound to the first host (2 CPUs), and on the second (1 CPU).
    "placement.cpus={controller: 0.2, replay: 0.4, learner: 0.6, rollout: 0.5, reward: 0.3}",
)  # fmt: skip
MINE = """
from ring_async.verifiers.rules.logic.verifier import LogicVerifier

class Mine(LogicVerifier):
    pass
"""
"""A verifier in a file of the first host alone. Its reward is reasoning-gym's."""
REFUSED = {
    "shared memory between hosts": (
        "weights.channel=shm",
        "weights.channel=shm reaches one host only; set weights.channel=zmq: the cluster has 2 hosts (10.77.0.1, ",
    ),
    "no room on the host it is bound to": (
        "placement.cpus.learner=1.7 reward.num=1 rollout.num=1 placement.cpus.rollout=0.2",
        "placement: no place within 2 s for learner-0 (room for CPU 1.7 on 10.77.0.1). The hosts have",
    ),
    "a model that one host lacks": (
        "model.path=/tmp/model",
        "host 10.77.0.2: model.path: /tmp/model: /tmp/model holds no config.json",
    ),
}
"""What `up` refuses on this cluster, and how."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, dict[str, str]]]:
    """Two hosts of one Ray cluster, and the environment of commands on them."""
    env = ray_environment(secrets.token_hex(32))
    try:
        with wire(tmp_path_factory.mktemp("hosts"), "a", "b") as made:
            a, b = made.hosts["a"], made.hosts["b"]
            start_ray(a, a, 2, env)
            start_ray(b, a, 1, env)
            yield made, env
    except CannotMakeHostsError as reason:
        pytest.skip(f"no network namespaces here: {reason}")


@pytest.fixture(scope="module")
def finished(hosts: tuple[Wire, dict[str, str]]) -> Iterator[FleetOnHosts]:
    """Training across hosts; strangers knock; host b is lost, training goes on, it comes back; the end."""
    made, env = hosts
    a, b = made.hosts["a"], made.hosts["b"]
    (a.tmp / "mine.py").write_text(MINE)
    (a.tmp / "other.py").write_text(MINE.replace("Mine", "Other"))
    shutil.copytree(resolve_model_path("builtin:tiny"), a.tmp / "model")
    refusals = refusals_of(a, env, {what: (*OVERRIDES, *words.split()) for what, (words, _) in REFUSED.items()})
    with fleet_on_hosts(a, "spread", env, *OVERRIDES) as live:
        live.seen["refusals"] = refusals
        live.wait_version(1, DEADLINE_S)
        live.cli("scale", "rollout", "2")
        live.wait_until(lambda: len(live.joined("rollout-1")) == 1, "a second rollout", DEADLINE_S)
        live.wait_version(live.version() + 3, DEADLINE_S)
        live.seen["before"] = live.actors()
        look_at_links(live, made)
        live.seen["swap"] = json.loads(live.cli("swap", "verifier", "logic=/tmp/other.py:Other", "--json"))
        live.seen["files_on_b"] = live.files_on(b)
        lose_and_bring_back(live, made, env)
        live.end()
        live.seen["files_on_b_again"] = live.files_on(b)
        yield live


@pytest.fixture(scope="module")
def bound(hosts: tuple[Wire, dict[str, str]], finished: FleetOnHosts) -> Iterator[FleetOnHosts]:
    """A run whose buffer lies on host b; b's processes are killed, and it comes back with its disk."""
    made, env = hosts
    a, b = made.hosts["a"], made.hosts["b"]
    with fleet_on_hosts(
        a, "bound", env, f"placement.hosts.replay=[{b.address}]", "placement.cpus={learner: 0.5, rollout: 0.5}",
    ) as live:  # fmt: skip
        live.wait_version(1, DEADLINE_S)
        b.kill()
        live.wait_until(lambda: bool(live.events("actor_waiting")), "replay waiting for its host", DEADLINE_S)
        live.seen["while_lost"] = live.actors()["replay-0"]
        b.start()
        start_ray(b, a, 1, env)
        live.wait_until(lambda: len(live.joined("replay-0")) == 2, "replay back", DEADLINE_S)
        live.wait_version(live.version() + 3, DEADLINE_S)
        live.end()
        live.seen["stores_on_a"] = {name for name in live.files_on(a) if name.startswith("replay/")}
        shutil.copytree(b.tmp / "runs" / "bound" / "replay", live.run_dir.replay, dirs_exist_ok=True)
        yield live


def look_at_links(live: FleetOnHosts, made: Wire) -> None:
    """What listens where, and who is let in."""
    pids = {actor_id: actor["pid"] for actor_id, actor in live.seen["before"].items()}
    pids["controller-0"] = live.run_dir.read_endpoints()["pid"]
    hosts = {host.address: host for host in made.hosts.values()}
    places = {actor_id: actor["host"] for actor_id, actor in live.seen["before"].items()}
    places["controller-0"] = made.hosts["a"].address
    doors = {actor_id: hosts[place].listening(pids[actor_id]) for actor_id, place in places.items()}
    live.seen["doors"] = doors
    live.seen["unix"] = set().union(*(host.unix_sockets() for host in hosts.values()))
    outward = sorted({f"tcp://{door}" for open_doors in doors.values() for door in open_doors if "10.77" in door})
    keys = {path.name: path.read_text() for path in live.run_dir.keys.iterdir()}
    env = ray_environment("")
    live.seen["outward"] = outward
    live.seen["without_key"] = knock(made, outward, {}, env)
    live.seen["stranger"] = knock(made, outward, {"server_public": keys["server_public"]}, env)
    live.seen["one_of_us"] = knock(made, outward, keys, env)
    live.seen["control"] = live.run_dir.read_endpoints()["control"]
    live.seen["api"] = live.run_dir.read_endpoints()["api"]


def lose_and_bring_back(live: FleetOnHosts, made: Wire, env: dict[str, str]) -> None:
    a, b = made.hosts["a"], made.hosts["b"]
    on_b = sorted(actor_id for actor_id, actor in live.seen["before"].items() if actor["host"] == b.address)
    live.seen["on_b"] = on_b
    made.cut("b")
    b.kill()
    live.wait_until(
        lambda: {event["actor"] for event in live.events("actor_waiting")} >= set(on_b),
        f"{', '.join(on_b)} waiting for a host",
        DEADLINE_S,
    )
    live.seen["while_lost"] = live.actors()
    waited_from = live.version()
    live.wait_version(live.version() + 3, DEADLINE_S)
    live.seen["trained_without_b"] = live.version() - waited_from
    shutil.rmtree(b.tmp / "runs")  # it comes back with nothing of the run
    made.mend("b")
    b.start()
    start_ray(b, a, 1, env)
    returned_at = live.version()
    live.wait_until(lambda: all(len(live.joined(actor_id)) == 2 for actor_id in on_b), "b's actors back", DEADLINE_S)
    end_s = time.monotonic() + DEADLINE_S
    while not has_caught_up(actors := live.actors(), on_b, returned_at):
        assert time.monotonic() < end_s, f"b's actors are back but do not work: {actors}"
        time.sleep(1.0)
    live.seen["after"] = actors
    live.seen["after_changes"] = live.status()["changes"]
    live.wait_version(live.version() + 2, DEADLINE_S)


def has_caught_up(actors: dict[str, dict[str, Any]], actor_ids: list[str], version: int) -> bool:
    """Whether those that came back work: rollouts with weights published since, rewards with verdicts."""
    for actor_id in actor_ids:
        counters = actors[actor_id]["counters"]
        if actor_id.startswith("rollout") and counters.get("policy_version", -1) < version:
            return False
        if not counters.get("generated_tokens" if actor_id.startswith("rollout") else "verdicts"):
            return False
    return True


def test_actors_are_spread_over_hosts_and_state_stays_with_the_launcher(finished: FleetOnHosts):
    hosts = {actor_id: actor["host"] for actor_id, actor in finished.seen["before"].items()}
    assert {hosts["replay-0"], hosts["learner-0"]} == {"10.77.0.1"}
    for role in ("rollout", "reward"):
        assert {hosts[f"{role}-0"], hosts[f"{role}-1"]} == {"10.77.0.1", "10.77.0.2"}


def test_it_ends_clean_and_every_batch_is_exact(finished: FleetOnHosts):
    assert finished.exit_code == 0, finished.output()
    outcome = json.loads(finished.run_dir.outcome.read_text())
    assert (outcome["failure"], outcome["killed"]) == ("", [])
    steps = finished.steps()
    assert [step["policy_version"] for step in steps] == list(range(1, outcome["policy_version"] + 1))
    assert {step["loss_tokens"] for step in steps} == {TOKEN_BUDGET}
    assert max(step["staleness_max"] for step in steps) <= MAX_STALENESS


def test_nothing_acknowledged_is_lost(finished: FleetOnHosts):
    report = audit(finished.run_dir.path)
    assert report.is_clean, report.to_text()
    assert not report.notes, report.notes
    finished.cli("audit", "spread")


def test_every_link_is_tcp_with_curve(finished: FleetOnHosts):
    for actor_id, doors in finished.seen["doors"].items():
        host = finished.seen["before"].get(actor_id, {}).get("host", "10.77.0.1")
        assert any(door.startswith(f"{host}:") for door in doors), (actor_id, doors)
    assert not [path for path in finished.seen["unix"] if "/ring-" in path], "an ipc socket of ours"
    assert finished.seen["control"].startswith("tcp://10.77.0.1:")


def test_a_stranger_on_the_wire_gets_nothing(finished: FleetOnHosts):
    outward = set(finished.seen["outward"])
    for knocked in ("without_key", "stranger"):
        reached, entered = finished.seen[knocked]
        assert reached == outward, "the knock arrived at every door"
        assert entered == set(), knocked
    _, entered = finished.seen["one_of_us"]
    assert finished.seen["control"] in entered, "the run's own keys open it"
    assert len(entered) >= 7, "control and data inboxes on both hosts, and the weights"
    assert finished.seen["api"].startswith("http://127.0.0.1:"), "the control API stays on its host"


def test_a_lost_host_is_waited_for_in_sight_while_training_goes_on(finished: FleetOnHosts):
    on_b = finished.seen["on_b"]
    assert [actor_id.partition("-")[0] for actor_id in on_b] == ["reward", "rollout"]
    for actor_id in on_b:
        actor = finished.seen["while_lost"][actor_id]
        assert actor["state"] == "waiting"
        assert "gone: 10.77.0.2" in actor["waiting_for"]
    assert finished.seen["trained_without_b"] >= 3
    lost = Counter(event["actor"] for event in finished.events("actor_lost"))
    assert lost == dict.fromkeys(on_b, 1), finished.events("actor_lost")
    notices = [event["notice"] for event in finished.events("actor_lost")]
    assert all("its host 10.77.0.2 is gone" in notice for notice in notices), "not counted as a death of its own"


def test_actors_come_back_to_the_host_and_fetch_the_weights_in_force(finished: FleetOnHosts):
    for actor_id in finished.seen["on_b"]:
        assert finished.joined(actor_id) == ["10.77.0.2", "10.77.0.2"]
        assert finished.seen["after"][actor_id]["state"] == "running"
    for actor_id in ("replay-0", "learner-0"):
        assert finished.joined(actor_id) == ["10.77.0.1"], "nobody else was disturbed"


def test_a_host_holds_logs_and_traces_of_its_actors_and_verifiers_files_but_no_state_and_no_keys(
    finished: FleetOnHosts,
):
    on_b = finished.seen["on_b"]
    for when in ("files_on_b", "files_on_b_again"):
        files = {name for name in finished.seen[when] if not name.startswith("verifiers/")}
        assert files == {f"logs/{one}.log" for one in on_b} | {f"trace/{one}.jsonl" for one in on_b}, when
    assert {path.stem for path in finished.run_dir.logs.glob("*-*.log")}.isdisjoint(on_b)


def test_verifiers_from_files_reach_reward_actors_on_other_hosts(finished: FleetOnHosts):
    def names(when: str) -> set[str]:
        kept = [name for name in finished.seen[when] if name.startswith("verifiers/") and name.endswith(".py")]
        return {Path(name).name for name in kept}

    assert finished.seen["swap"]["state"] == "committed", finished.seen["swap"]
    assert names("files_on_b") == {"mine.py", "other.py"}
    assert "other.py" in names("files_on_b_again"), "fetched again by a host that had lost it"
    in_force = finished.seen["after_changes"]["verifiers"]["logic"]["use"]
    assert in_force.endswith("/other.py:Other")


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_run_on_this_cluster_is_refused_by_up_with_the_reason(finished: FleetOnHosts, what: str):
    assert REFUSED[what][1] in finished.seen["refusals"][what]


def test_a_buffer_is_waited_for_and_found_again_on_the_host_where_it_lies(bound: FleetOnHosts):
    assert bound.joined("replay-0") == ["10.77.0.2", "10.77.0.2"]
    assert bound.seen["while_lost"]["state"] == "waiting"
    assert bound.seen["while_lost"]["waiting_for"] == "host 10.77.0.2, which is gone; what it keeps lies there"
    assert bound.seen["stores_on_a"] == set()
    assert bound.exit_code == 0, bound.output()
    steps = bound.steps()
    assert [step["policy_version"] for step in steps] == list(range(1, len(steps) + 1))
    assert {step["loss_tokens"] for step in steps} == {TOKEN_BUDGET}
    report = audit(bound.run_dir.path)
    assert report.is_clean, report.to_text()
    assert not report.notes, report.notes

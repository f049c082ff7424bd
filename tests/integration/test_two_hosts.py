"""One run over two hosts, and a host that goes and comes back.

Both are network namespaces of this machine with nothing in common but the wire and the installed package: `/tmp`, where
the run's folder and Ray's sockets lie, and `/dev/shm` are private to each.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live_fleet import LOCAL, SMALL, LiveFleet
from network_hosts import RAY_PORT, CannotMakeHostsError, Host, Wire, knock, ray_environment, start_ray, why_not, wire
from ring_async.storage.audit import audit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

RUNS = "/tmp/runs"
NAME = "two"
TOKEN_BUDGET = 1024
MAX_STALENESS = 4
OVERRIDES = (
    "transport.kind=tcp", "weights.channel=zmq", "rollout.num=2", "reward.num=2", "stop.policy_versions=100000",
    # One rollout and one reward actor fit beside what is bound to the first host (2 CPUs), and on the second (1 CPU).
    "placement.cpus={controller: 0.2, replay: 0.4, learner: 0.6, rollout: 0.5, reward: 0.3}",
)  # fmt: skip
DEADLINE_S = 240.0


class FleetOnHosts(LiveFleet):
    """A run whose folder is on the first host, looked at from outside through that host's /tmp."""

    def __init__(self, first: Host, process: subprocess.Popen[str], env: dict[str, str]) -> None:
        super().__init__(first.tmp / "runs", NAME, process)
        self._first = first
        self._env = env
        self.seen: dict[str, Any] = {}

    def cli(self, *words: str) -> str:
        command = (sys.executable, "-m", "ring_async.cli", *words, "--runs", RUNS)
        return self._first.run(*command, env=self._env)

    def status(self) -> dict[str, Any]:
        return json.loads(self.cli("status", "--json"))

    def actors(self) -> dict[str, dict[str, Any]]:
        return {actor["actor_id"]: actor for actor in self.status()["actors"]}

    def version(self) -> int:
        steps = self.steps()
        return steps[-1]["policy_version"] if steps else 0

    def joined(self, actor_id: str) -> list[str]:
        """The hosts on which an actor has registered, in order."""
        return [event["host"] for event in self.events("joined") if event["author"] == actor_id]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOnHosts]:
    """The whole story: train across hosts, strangers knock, host b is lost, training goes on, it comes back, the end."""
    env = ray_environment(secrets.token_hex(32))
    folder = tmp_path_factory.mktemp("hosts")
    try:
        with wire(folder, "a", "b") as made:
            yield from tell_the_story(made, env)
    except CannotMakeHostsError as reason:
        pytest.skip(f"no network namespaces here: {reason}")


def tell_the_story(made: Wire, env: dict[str, str]) -> Iterator[FleetOnHosts]:
    a, b = made.hosts["a"], made.hosts["b"]
    start_ray(a, a, 2, env)
    start_ray(b, a, 1, env)
    words = [sys.executable, "-m", "ring_async.cli", "up", str(LOCAL), f"run.name={NAME}", f"run.dir={RUNS}"]
    (a.tmp / "runs").mkdir()
    with (a.tmp / "runs" / "up.txt").open("w") as output:
        process = subprocess.Popen(
            a.command(*words, *SMALL, *OVERRIDES), stdout=output, stderr=output, text=True,
            env=env | {"RAY_ADDRESS": f"{a.address}:{RAY_PORT}"},
        )  # fmt: skip
    live = FleetOnHosts(a, process, env)
    try:
        live.wait_version(4, DEADLINE_S)
        live.seen["before"] = live.actors()
        look_at_links(live, made)
        lose_and_bring_back(live, made, env)
        live.cli("down", "--deadline-s", "30")
        live.exit_code = live.wait_end(DEADLINE_S)
        live.seen["logs_on_b"] = {path.name for path in (b.tmp / "runs" / NAME / "logs").glob("*.log")}
        live.seen["files_on_b"] = {path.name for path in (b.tmp / "runs" / NAME).rglob("*") if path.is_file()}
        yield live
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)


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
    at_loss = live.version()
    live.wait_until(
        lambda: {event["actor"] for event in live.events("actor_waiting")} >= set(on_b),
        f"{', '.join(on_b)} waiting for a host",
        DEADLINE_S,
    )
    live.seen["while_lost"] = live.actors()
    live.wait_version(max(at_loss, live.version()) + 4, DEADLINE_S)
    live.seen["trained_without_b"] = live.version() - at_loss
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
    live.wait_version(live.version() + 3, DEADLINE_S)


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
    finished.cli("audit", NAME)


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
    assert finished.seen["trained_without_b"] >= 4
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


def test_nothing_of_the_run_s_state_or_keys_is_on_the_second_host(finished: FleetOnHosts):
    assert finished.seen["logs_on_b"] == {f"{actor_id}.log" for actor_id in finished.seen["on_b"]}
    assert {path.stem for path in finished.run_dir.logs.glob("*-*.log")}.isdisjoint(finished.seen["on_b"])
    assert all(name.endswith((".log", ".jsonl")) for name in finished.seen["files_on_b"]), finished.seen["files_on_b"]

"""A run over several hosts of `network_hosts`, brought up and looked at as a person on the first of them would."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from live_fleet import LOCAL, SMALL, LiveFleet
from network_hosts import RAY_PORT, Host

RUNS = "/tmp/runs"
DEADLINE_S = 240.0
ACROSS = ("transport.kind=tcp", "weights.channel=zmq")


class FleetOnHosts(LiveFleet):
    """A run whose folder is on the first host, looked at from outside through that host's /tmp."""

    def __init__(self, first: Host, name: str, process: subprocess.Popen[str], env: dict[str, str]) -> None:
        super().__init__(first.tmp / "runs", name, process)
        self._first = first
        self._env = env
        self.seen: dict[str, Any] = {}

    def cli(self, *words: str) -> str:
        """Run one command on the first host; returns what it prints."""
        command = (sys.executable, "-m", "ring_async.cli.app", *words, "--runs", RUNS)
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

    def end(self) -> None:
        self.cli("down", "--deadline-s", "30")
        self.exit_code = self.wait_end(DEADLINE_S)

    def files_on(self, host: Host) -> set[str]:
        """All files of the run on a host, below its folder there."""
        folder = host.tmp / "runs" / self.run_dir.path.name
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _up(host: Host, name: str, *overrides: str) -> list[str]:
    words = [sys.executable, "-m", "ring_async.cli.app", "up", str(LOCAL), f"run.name={name}", f"run.dir={RUNS}"]
    return host.command(*words, *SMALL, *ACROSS, *overrides)


def _joining(head: Host, env: dict[str, str]) -> dict[str, str]:
    return env | {"RAY_ADDRESS": f"{head.address}:{RAY_PORT}"}


@contextlib.contextmanager
def fleet_on_hosts(first: Host, name: str, env: dict[str, str], *overrides: str) -> Iterator[FleetOnHosts]:
    """`ring-async up` of a small run without an end of its own, on the first host; what is left of it is killed."""
    (first.tmp / "runs").mkdir(exist_ok=True)
    words = _up(first, name, "stop.policy_versions=100000", *overrides)
    with (first.tmp / "runs" / "up.txt").open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, text=True, env=_joining(first, env))
    try:
        yield FleetOnHosts(first, name, process, env)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)


LAUNCH = """
import asyncio, json, sys
from pathlib import Path
from ring_async.config.load import load_config
from ring_async.errors import ConfigError
from ring_async.launch import Launcher
from ring_async.storage.run_dir import RunDir

said = {}
for what, words in json.loads(sys.argv[2]).items():
    launcher = Launcher(load_config(sys.argv[1], words), RunDir(Path("/tmp/runs/refused")))
    try:
        said[what] = asyncio.run(launcher.run()).failure
    except ConfigError as refusal:
        said[what] = str(refusal)
print(json.dumps(said))
"""
"""What `up` does, again and again in one process: a quarter of the time."""


def refusals_of(first: Host, env: dict[str, str], overrides: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The words with which fleets with these overrides are refused on the first host, by the same names."""
    words = {
        what: [*ACROSS, "run.name=refused", f"run.dir={RUNS}", "placement.start_timeout_s=2", *more]
        for what, more in overrides.items()
    }
    said = first.run(sys.executable, "-c", LAUNCH, str(LOCAL), json.dumps(words), env=_joining(first, env))
    return json.loads(said.splitlines()[-1])

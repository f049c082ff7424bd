"""A real fleet, brought up as a person would: the command line in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ring_async.control.client import ControlClient
from ring_async.errors import RunError
from ring_async.storage.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "configs" / "local.yaml"
CLUSTER = ROOT / "configs" / "cluster.yaml"
HEARING_HANGUP = ("env", "--default-signal=HUP")
"""A suite that was started with `nohup` hands its deafness down, and `up` respects that."""
SMALL = (
    "budget.token_budget=1024",
    "rollout.max_running_requests=48",
    "checkpoint.every_versions=10",
    "monitoring.heartbeat_s=0.3",
)
"""Overrides that make a run of the local configuration quick."""


def cli(*words: str, timeout_s: float = 60.0, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "ring_async.cli.app", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, check=False)


class LiveFleet:
    """One run, and what a test does to it."""

    def __init__(self, runs: Path, name: str, process: subprocess.Popen[str]) -> None:
        self.run_dir = RunDir(runs / name)
        self.runs = runs
        self.process = process
        self.client = ControlClient(self.run_dir)

    def status(self) -> dict[str, Any]:
        return self.client.get("/v1/status")

    def steps(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        return read_lines(self.run_dir.metrics)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.run_dir.events) if event["kind"] == kind]

    def pid_of(self, actor_id: str) -> int:
        return next(actor["pid"] for actor in self.status()["actors"] if actor["actor_id"] == actor_id)

    def kill(self, actor_id: str) -> int:
        """kill -9, the actor that runs under this id now."""
        pid = self.run_dir.read_endpoints()["pid"] if actor_id == "controller-0" else self.pid_of(actor_id)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        end_s = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(RunError, FileNotFoundError, StopIteration):
                if is_so():
                    return
            if self.process.poll() is not None:
                raise AssertionError(f"the fleet ended (code {self.process.returncode}) before {what}\n{self.output()}")
            assert time.monotonic() < end_s, f"no {what} within {timeout_s:.0f} s\n{self.output()}"
            time.sleep(0.05)

    def wait_version(self, number: int, timeout_s: float = 120.0) -> None:
        self.wait_until(
            lambda: self.steps()[-1]["policy_version"] >= number if self.steps() else False,
            f"version {number}",
            timeout_s,
        )

    def wait_end(self, timeout_s: float = 240.0) -> int:
        return self.process.wait(timeout_s)

    def output(self) -> str:
        """What a person would look at when it went wrong: the end of every log."""
        paths = [*sorted(self.run_dir.logs.glob("*.log")), self.runs / "up.txt"]
        texts = [f"--- {path.name}\n{path.read_text()[-1500:]}" for path in paths if path.exists()]
        return "\n".join(texts)


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


@contextlib.contextmanager
def fleet(runs: Path, name: str, *overrides: str, resume: bool = False, config: Path = LOCAL) -> Iterator[LiveFleet]:
    """Bring a run up, a small one of the local configuration by default; what is left of it at the end is killed."""
    words = ["up", str(config), f"run.name={name}", f"run.dir={runs}", *SMALL, *overrides]
    command = [sys.executable, "-m", "ring_async.cli.app", *words, *(["--resume"] if resume else [])]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "up.txt").open("a") as output:
        process = subprocess.Popen(
            [*HEARING_HANGUP, *command], stdout=output, stderr=output, text=True, cwd=ROOT, start_new_session=True
        )
    try:
        yield LiveFleet(runs, name, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

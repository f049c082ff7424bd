"""The run that is struck: a copy of somebody's configuration, brought up as a person would, in processes of its own.

Owns: its start and end, what is seen of it, and its processes. Does not own which of them are struck, or when.
Invariant: whatever happens, no process of the run is left when `close` has returned; those that had to be killed there
are reported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from ring_async.chaos.recovery import Seen
from ring_async.control.client import ControlClient
from ring_async.core.roster import Role
from ring_async.errors import RunError
from ring_async.records.status import read_status
from ring_async.storage.run_dir import RunDir

POLL_S = 0.1
START_S = 180.0
END_S = 120.0
ANSWER_S = 3.0
"""Time for one answer of the controller."""

UNENDING = ("stop.policy_versions=1000000000", "stop.wall_s=null", "placement.max_restarts=1000000")
"""Overrides of the copy: it ends when the strikes are over, and no number of them is too many."""


class Target:
    """One run under fire.

    Args:
        config: the configuration's file.
        overrides: `key=value` of the user.
        run_dir: of the copy; the folder's name becomes the run's.
    """

    def __init__(self, config: Path, overrides: list[str], run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._client = ControlClient(run_dir, timeout_s=ANSWER_S)
        where = [f"run.name={run_dir.path.name}", f"run.dir={run_dir.path.parent}"]
        self._command = [
            sys.executable, "-m", "ring_async.cli.app", "up", str(config), *overrides, *UNENDING, *where,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: dict[int, psutil.Process] = {}
        """Every process of the run that was ever seen, by its id."""
        self._frozen: list[psutil.Process] = []

    def start(self) -> None:
        """Bring the run up, and wait until it has trained a version.

        Raises:
            RunError: it ended, or took too long.
        """
        self.run_dir.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.run_dir.path.parent / f"{self.run_dir.path.name}.up.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.wait(lambda seen: bool(seen.status.policy_version), "its first version", START_S)

    def look(self) -> Seen | None:
        """What the controller says now; None while it does not answer.

        Raises:
            RunError: the run has ended.
        """
        if self._process is not None and self._process.poll() is not None:
            raise RunError(f"the run ended by itself, exit code {self._process.returncode}; logs: {self.run_dir.logs}")
        try:
            pid = int(self.run_dir.read_endpoints()["pid"])
            seen = Seen(read_status(self._client.get("/v1/status")), pid)
        except (RunError, ValueError, KeyError):
            return None
        for one in (pid, *(actor.pid for actor in seen.status.actors)):
            if one is not None and one not in self._processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._processes[one] = psutil.Process(one)
        return seen

    def wait(self, is_so: Callable[[Seen], bool], what: str, timeout_s: float) -> Seen:
        """Look again and again until something is so.

        Raises:
            RunError: it did not come about in time, or the run ended.
        """
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if (seen := self.look()) is not None and is_so(seen):
                return seen
            time.sleep(POLL_S)
        raise RunError(f"no {what} within {timeout_s:.0f} s; logs: {self.run_dir.logs}")

    def process_of(self, role: Role, actor_id: str, seen: Seen) -> psutil.Process | None:
        """The process that runs as this actor; None: none does."""
        actor = seen.actor(actor_id)
        pid = seen.controller_pid if role is Role.CONTROLLER else actor.pid if actor else None
        return self._processes.get(pid) if pid is not None else None

    def post_beside(self, path: str, body: dict[str, object]) -> None:
        """Call the control API without waiting for the answer."""

        def call() -> None:
            with contextlib.suppress(RunError):
                ControlClient(self.run_dir, timeout_s=30.0).post(path, body)

        threading.Thread(target=call, daemon=True).start()

    def freeze(self, process: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
            self._frozen.append(process)

    def thaw(self) -> None:
        """Let every frozen process go on, if it still exists."""
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._frozen.clear()

    def end(self) -> str:
        """Ask the run to end; returns why it did not end well, or an empty string."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return f"it still ran {END_S:.0f} s after SIGTERM"
        return "" if code == 0 else f"exit code {code}; logs: {self.run_dir.logs}"

    def close(self) -> tuple[int, ...]:
        """Kill what is left of the run; returns the processes that were left."""
        self.thaw()
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _, alive = psutil.wait_procs(list(self._processes.values()), timeout=5.0)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return tuple(process.pid for process in alive)

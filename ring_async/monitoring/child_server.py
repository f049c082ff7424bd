"""A server that people watch with, as a child process: started, waited for, ended with the run.

Owns: the process. Does not own what the server is told (`prometheus`, `grafana.server`).
Invariants: `close` leaves no process behind. If the thread that made the server ends, a killed parent's for one, the
kernel ends the server (where there is `setpriv`, which util-linux brings), so that thread must outlive it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from ring_async.errors import RunError

END_S = 5.0
"""How long a server may take to end by itself."""


class ChildServer:
    """Starts a server and waits until its address answers.

    Args:
        command: the program and its arguments.
        ready_url: answers with a status below 500 once the server is ready.
        log: file for its output.
        start_s: how long it may take to be ready.

    Raises:
        RunError: it ended, or was not ready in time; the message holds the end of its output.
    """

    def __init__(
        self,
        command: Sequence[str],
        ready_url: str,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        start_s: float = 30.0,
    ) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # Rejected: preexec_fn with prctl, which may deadlock in a process that has threads.
            guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
            self._process = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._name = Path(command[0]).name
        try:
            self._wait_ready(ready_url, start_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the server. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def _wait_ready(self, url: str, start_s: float) -> None:
        end_s = time.monotonic() + start_s
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                raise RunError(f"{self._name} ended with exit code {self._process.returncode}:\n{self._last_output()}")
            try:
                if httpx.get(url, timeout=1.0, trust_env=False).status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise RunError(f"{self._name} was not ready within {start_s:.0f} s:\n{self._last_output()}")

    def _last_output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-800:]


def find_program(name: str, key: str, remedy: str) -> str:
    """The path of a program on PATH.

    Raises:
        RunError: there is none; the message names the key that asks for it, and what to do.
    """
    path = shutil.which(name)
    if path is None:
        raise RunError(f"{key}: managed, but there is no {name} on PATH; {remedy}")
    return path


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses now. Another process may take it before the server does; then the start fails."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])

"""Running code that a model wrote: one bubblewrap sandbox per program, started in advance, used once, thrown away.

Owns: the pool of warm sandboxes, and refusing where there can be no sandbox. Does not own: what a sandbox looks like
(`walls`), running tests in one (`session`), or what happens inside (`runner`).

A sandbox has its own user, process, network, mount, IPC, UTS and cgroup namespaces; no network, not even loopback's
sockets; the system's programs and libraries read-only, nothing else of the host, no /proc; a tmpfs of limited size;
no capabilities, no new privileges, a seccomp filter; limits on CPU, memory, processes, output, files and time. It never
runs a program without all of that: where bubblewrap is missing or refused, `SandboxUnavailableError` says so.

Invariants: no process of a sandbox outlives its session, nor this process. What a program does to itself is a result;
what the machine does to it is a `VerifierError`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ring_async.errors import SandboxUnavailableError, VerifierError
from ring_async.sandbox.box import START_TIMEOUT_S, Box
from ring_async.sandbox.program import Program, SandboxLimits
from ring_async.sandbox.session import Session
from ring_async.sandbox.spawner import Spawner, SpawnerError
from ring_async.sandbox.walls import launcher_command

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class SandboxPool:
    """Warm sandboxes for programs. Safe to use from several threads.

    Args:
        num_slots: programs run at once; further sessions wait.
        limits: of every sandbox.
        python: an interpreter outside any virtual environment; None: the one this process runs on.
        packages: names of installed packages that programs may import beside the standard library.

    Raises:
        SandboxUnavailableError: there can be no sandbox here; says which package is missing, or what refused it.
    """

    def __init__(
        self,
        num_slots: int = 2,
        limits: SandboxLimits | None = None,
        python: Path | None = None,
        packages: Sequence[str] = (),
    ) -> None:
        self.limits = limits or SandboxLimits()
        self._slots = threading.BoundedSemaphore(num_slots)
        self._warm: deque[Box] = deque()
        self._lock = threading.Lock()
        self._is_closed = False
        self._command = launcher_command(python, packages, self.limits)
        self._spawner = self._start_launcher()
        try:
            self._warm.append(self._launch())
            self._warm[0].wait_ready()
            self._warm.extend(self._launch() for _ in range(num_slots - 1))
        except VerifierError as error:
            self.close()
            raise SandboxUnavailableError(
                f"bubblewrap is installed but no sandbox starts: {error}. Unprivileged user namespaces must be allowed "
                "(kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, container profile)"
            ) from error

    @contextmanager
    def session(self, program: Program, limits: SandboxLimits | None = None) -> Iterator[Session]:
        """A sandbox with this program in it; everything in it ends with the context.

        Args:
            program: compiled now, if its language asks for that.
            limits: tighter than the pool's for this program (not `disk_bytes`); None: the pool's.

        Raises:
            RefusedProgramError: it does not compile.
            VerifierError: no sandbox started, or it died of the machine's own accord.
        """
        with self._slots:
            sandbox = self._take()
            try:
                session = Session(sandbox, program, limits or self.limits)
                session.prepare()
                yield session
            finally:
                sandbox.end()

    def close(self) -> None:
        """End every sandbox and the launcher, and wait for them."""
        with self._lock:
            self._is_closed = True
            while self._warm:
                self._warm.popleft().end()
        self._spawner.close()

    def _take(self) -> Box:
        with self._lock:
            if self._is_closed:
                raise VerifierError("sandbox_closed", "the sandbox pool was closed")
            if self._spawner.has_ended:
                while self._warm:
                    self._warm.popleft().end()
                self._spawner.close()
                self._spawner = self._start_launcher()
            sandbox = self._warm.popleft() if self._warm else self._launch()
            self._warm.append(self._launch())
        return sandbox

    def _start_launcher(self) -> Spawner:
        return Spawner(self._command, _ENVIRONMENT, START_TIMEOUT_S)

    def _launch(self) -> Box:
        """Start a sandbox without waiting for it."""
        ours, theirs = socket.socketpair()
        errors_r, errors_w = os.pipe()
        try:
            pid = self._spawner.start([theirs.fileno(), errors_w])
        except SpawnerError as error:
            ours.close()
            os.close(errors_r)
            raise VerifierError("sandbox_start", str(error)) from error
        finally:
            theirs.close()
            os.close(errors_w)
        return Box(self._spawner, pid, ours, errors_r)

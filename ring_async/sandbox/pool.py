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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ring_async.errors import SandboxUnavailableError, VerifierError
from ring_async.sandbox.box import START_TIMEOUT_S, Box
from ring_async.sandbox.program import Program, SandboxLimits
from ring_async.sandbox.session import ProgramSession
from ring_async.sandbox.spawner import Spawner, SpawnerError
from ring_async.sandbox.walls import launcher_command

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class SandboxPool:
    """Warm sandboxes for programs. Safe to use from several threads.

    Args:
        num_slots: programs run at once; further sessions wait.
        limits: of every sandbox.
        python: an interpreter outside any virtual environment; None: the one this process runs on.
        packages: installed packages that programs may import beside the standard library, each with the words by which
            a program that may use it is known. Only such a program's sandbox has them in sight: what is mounted costs
            time, and few programs need it.

    Raises:
        SandboxUnavailableError: there can be no sandbox here; says which package is missing, or what refused it.
    """

    def __init__(
        self,
        num_slots: int = 2,
        limits: SandboxLimits | None = None,
        python: Path | None = None,
        packages: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self._slots = threading.BoundedSemaphore(num_slots)
        self._words = tuple(word for words in (packages or {}).values() for word in words)
        self._plain = _Boxes(launcher_command(python, (), self.limits), num_slots)
        self._with_packages = _Boxes(launcher_command(python, tuple(packages or ()), self.limits), 0)
        try:
            self._plain.warm_up()
        except VerifierError as error:
            self.close()
            raise SandboxUnavailableError(
                f"bubblewrap is installed but no sandbox starts: {error}. Unprivileged user namespaces must be allowed "
                "(kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, container profile)"
            ) from error

    @contextmanager
    def session(self, program: Program, limits: SandboxLimits | None = None) -> Iterator[ProgramSession]:
        """A sandbox with this program in it; everything in it ends with the context.

        Args:
            program: compiled now, if its language asks for that.
            limits: tighter than the pool's for this program (not `disk_bytes`); None: the pool's.

        Raises:
            RefusedProgramError: it does not compile.
            VerifierError: no sandbox started, or it died of the machine's own accord.
        """
        boxes = self._with_packages if any(word in program.source for word in self._words) else self._plain
        with self._slots:
            box = boxes.take()
            try:
                session = ProgramSession(box, program, limits or self.limits)
                session.prepare()
                yield session
            finally:
                box.end()

    def close(self) -> None:
        """End every sandbox and the launchers, and wait for them."""
        self._plain.close()
        self._with_packages.close()


class _Boxes:
    """Sandboxes of one look, some started in advance, from a launcher that is started again when it dies.

    Example: with `num_warm` 2, `take` hands out a running sandbox and starts a third; with 0, it starts one and waits.
    """

    def __init__(self, command: list[str], num_warm: int) -> None:
        self._command = command
        self._num_warm = num_warm
        self._warm: deque[Box] = deque()
        self._lock = threading.Lock()
        self._is_closed = False
        self._spawner: Spawner | None = None

    def warm_up(self) -> None:
        """Start the launcher and the sandboxes in advance; the first is waited for.

        Raises:
            VerifierError: `sandbox_start`.
        """
        with self._lock:
            self._spawner = self._running_spawner()
            self._warm.append(self._launch(self._spawner))
            self._warm[0].wait_ready()
            self._warm.extend(self._launch(self._spawner) for _ in range(self._num_warm - 1))

    def take(self) -> Box:
        """A sandbox, not yet waited for.

        Raises:
            VerifierError: `sandbox_closed`, `sandbox_start`.
        """
        with self._lock:
            if self._is_closed:
                raise VerifierError("sandbox_closed", "the sandbox pool was closed")
            self._spawner = self._running_spawner()
            box = self._warm.popleft() if self._warm else self._launch(self._spawner)
            if self._num_warm:
                self._warm.append(self._launch(self._spawner))
        return box

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._end_warm()
            if self._spawner is not None:
                self._spawner.close()

    def _running_spawner(self) -> Spawner:
        if self._spawner is not None and not self._spawner.has_ended:
            return self._spawner
        self._end_warm()
        if self._spawner is not None:
            self._spawner.close()
        return Spawner(self._command, _ENVIRONMENT, START_TIMEOUT_S)

    def _end_warm(self) -> None:
        while self._warm:
            self._warm.popleft().end()

    def _launch(self, spawner: Spawner) -> Box:
        """Start a sandbox without waiting for it."""
        ours, theirs = socket.socketpair()
        errors_r, errors_w = os.pipe()
        try:
            pid = spawner.start([theirs.fileno(), errors_w])
        except SpawnerError as error:
            ours.close()
            os.close(errors_r)
            raise VerifierError("sandbox_start", str(error)) from error
        finally:
            theirs.close()
            os.close(errors_w)
        return Box(spawner, pid, ours, errors_r)

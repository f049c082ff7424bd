"""Running code that a model wrote: one bubblewrap sandbox per program, started in advance, used once, thrown away.

Owns: what a sandbox looks like, the pool of warm ones, limits, and refusing where there can be no sandbox. Does not
own: judging outputs (`code`), or what happens inside (`runner`).

A sandbox has its own user, process, network, mount, IPC, UTS and cgroup namespaces; no network, not even loopback's
sockets; the system's programs and libraries read-only, nothing else of the host, no /proc; a tmpfs of limited size;
no capabilities, no new privileges, a seccomp filter; limits on CPU, memory, processes, output, files and wall time.
It never runs a program without all of that: where bubblewrap is missing or refused, `SandboxUnavailableError` says so.

Invariants: no process of a sandbox outlives its session, nor this process. What a program does to itself is a result;
what the machine does to it is a `VerifierError`.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import select
import shutil
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ring_async.errors import SandboxUnavailableError, VerifierError
from ring_async.sandbox import seccomp
from ring_async.sandbox.spawner import Spawner, SpawnerError

Language = Literal["python", "cpp"]
Status = Literal["ok", "error", "signal", "cpu", "wall", "output", "memory"]
"""How one run ended: exit code 0, another exit code, killed by a signal, or by one of the limits."""

_PACKAGE_ROOT = str(Path(__file__).parents[2])
_START_TIMEOUT_S = 20.0
_GRACE_S = 5.0
_WATCH_INTERVAL_S = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a program may use. Times are seconds, per test.

    Args:
        cpu_s: CPU time of one process.
        wall_s: time on the clock; generous, so that a busy machine fails nobody.
        memory_bytes: address space of one process, and resident memory of the whole sandbox.
        disk_bytes: of the tmpfs at /tmp.
        output_bytes: standard output, standard error, returned value, each.
        max_processes: processes and threads at once.
        compile_s: CPU time of the compiler.
        stack_bytes: of a process's main thread.
    """

    cpu_s: float = 4.0
    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    disk_bytes: int = 32 << 20
    output_bytes: int = 1 << 20
    max_processes: int = 16
    compile_s: float = 10.0
    stack_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """Source code to run."""

    source: str
    language: Language = "python"


@dataclass(frozen=True, slots=True)
class Call:
    """A function to call: `solve` or `Solution.solve`, with plain data."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """How one run went. `value` is the JSON text of a call's return value; `stderr` its last 4 KiB."""

    status: Status
    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    value: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0


class RefusedProgramError(Exception):
    """The compiler refused the program; the message is its output."""


class SandboxPool:
    """Warm sandboxes for programs. Safe to use from several threads.

    Args:
        num_slots: programs run at once; further sessions wait.
        limits: of every sandbox.
        python: an interpreter outside any virtual environment; None: the one this process runs on.

    Raises:
        SandboxUnavailableError: there can be no sandbox here; says which package is missing, or what refused it.
    """

    def __init__(self, num_slots: int = 2, limits: SandboxLimits | None = None, python: Path | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._slots = threading.BoundedSemaphore(num_slots)
        self._warm: deque[_Sandbox] = deque()
        self._lock = threading.Lock()
        self._is_closed = False
        interpreter = (python or Path(sys._base_executable)).resolve()  # type: ignore[attr-defined]
        self._command, self._environment = _launcher(interpreter, self.limits)
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
    def session(self, program: Program, limits: SandboxLimits | None = None) -> Iterator[ProgramSession]:
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
                session = ProgramSession(sandbox, program, limits or self.limits)
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

    def _take(self) -> _Sandbox:
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
        return Spawner(self._command, self._environment, _START_TIMEOUT_S)

    def _launch(self) -> _Sandbox:
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
        return _Sandbox(self._spawner, pid, ours, errors_r)


class ProgramSession:
    """One program in one sandbox, for as many tests as wanted. Made by `SandboxPool.session`."""

    def __init__(self, sandbox: _Sandbox, program: Program, limits: SandboxLimits) -> None:
        self._sandbox = sandbox
        self._program = program
        self._limits = limits
        self._dead: Result | None = None

    def prepare(self) -> None:
        """Hand over the program, and compile it.

        Raises:
            RefusedProgramError: it does not compile.
        """
        self._sandbox.wait_ready()
        self._sandbox.send(
            {"language": self._program.language, "source": self._program.source, "limits": asdict(self._limits)}
        )
        answer = self._sandbox.receive(2 * self._limits.compile_s + _GRACE_S, max_memory_bytes=3 << 30)
        if answer is None or "refused" in answer:
            output = "the compiler used more memory than allowed" if answer is None else answer["output"]
            raise RefusedProgramError(output)

    def run(self, stdin: str = "", *, max_wall_s: float = math.inf) -> Result:
        """Run the program with this standard input.

        Args:
            stdin: what it can read.
            max_wall_s: tighter than the limit on wall time, for this run.

        Raises:
            VerifierError: the sandbox died or stalled of the machine's own accord.
        """
        return self._test({"stdin": stdin}, max_wall_s)

    def call(self, call: Call, *, max_wall_s: float = math.inf) -> Result:
        """Run the program, then call a function of it; `Result.value` is what it returned, as JSON.

        Raises:
            VerifierError: as `run`.
        """
        if self._program.language != "python":
            raise ValueError(f"functions can be called in Python programs, not in {self._program.language}")
        test = {"function": call.function, "args": list(call.args), "kwargs": dict(call.kwargs)}
        return self._test(test, max_wall_s)

    def _test(self, test: dict[str, Any], max_wall_s: float) -> Result:
        if self._dead is not None:
            return self._dead
        wall_s = min(self._limits.wall_s, max_wall_s)
        self._sandbox.send({**test, "wall_s": wall_s})
        answer = self._sandbox.receive(wall_s + _GRACE_S, max_memory_bytes=self._limits.memory_bytes)
        if answer is None:
            self._dead = Result("memory", stderr="the sandbox used more memory than allowed")
            return self._dead
        return Result(**answer)


class _Sandbox:
    """One bubblewrap process, seen from outside."""

    def __init__(self, spawner: Spawner, pid: int, connection: socket.socket, errors: int) -> None:
        self._spawner = spawner
        self._pid = pid
        self._connection = connection
        self._errors = errors
        self._started = time.monotonic()
        self._is_ready = False

    def wait_ready(self) -> None:
        """Block until the runner inside is up.

        Raises:
            VerifierError: `sandbox_start`, with what bubblewrap said.
        """
        if not self._is_ready:
            try:
                self.receive(_START_TIMEOUT_S)
            except VerifierError as error:
                raise VerifierError("sandbox_start", self._last_words() or str(error)) from error
            self._is_ready = True

    def send(self, message: dict[str, Any]) -> None:
        body = marshal.dumps(message)  # plain data, and the runner is spared the import of json
        try:
            self._connection.settimeout(_GRACE_S)
            self._connection.sendall(len(body).to_bytes(4, "big") + body)
        except OSError as error:
            raise VerifierError("sandbox_died", str(error)) from error

    def receive(self, timeout_s: float, max_memory_bytes: int | None = None) -> dict[str, Any] | None:
        """The next message; None if the sandbox was ended for using more memory than this.

        Raises:
            VerifierError: `sandbox_died`, `sandbox_stalled`, or `sandbox_nonsense`.
        """
        deadline = time.monotonic() + timeout_s
        received = bytearray()
        size = 4
        while len(received) < size:
            if not select.select([self._connection], [], [], _WATCH_INTERVAL_S)[0]:
                if time.monotonic() > deadline:
                    raise VerifierError("sandbox_stalled", f"no answer within {timeout_s:g} s")
                if max_memory_bytes is not None and resident_bytes(self._pid) > max_memory_bytes:
                    self._spawner.kill(self._pid)
                    return None
                continue
            try:
                chunk = self._connection.recv(1 << 20)
            except OSError as error:
                raise VerifierError("sandbox_died", str(error)) from error
            if not chunk:
                raise VerifierError("sandbox_died", self._last_words())
            received += chunk
            if size == 4 and len(received) >= 4:
                size = 4 + int.from_bytes(received[:4], "big")
                if size > 64 << 20:
                    raise VerifierError("sandbox_nonsense", f"a message of {size} bytes")
        try:
            message = json.loads(bytes(received[4:]))
        except (ValueError, RecursionError) as error:
            raise VerifierError("sandbox_nonsense", str(error)) from error
        return dict(message)

    def end(self) -> None:
        self._spawner.kill(self._pid)
        self._connection.close()
        os.close(self._errors)

    def _last_words(self) -> str:
        if not select.select([self._errors], [], [], 0.5)[0]:
            return ""
        return os.read(self._errors, 4096).decode(errors="replace").strip()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants, shared pages counted once per process."""
    total, pending = 0, [pid]
    while pending:
        current = pending.pop()
        try:
            total += int(Path(f"/proc/{current}/statm").read_text().split()[1]) * _PAGE_BYTES
            for task in Path(f"/proc/{current}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total


def _launcher(interpreter: Path, limits: SandboxLimits) -> tuple[list[str], dict[str, str]]:
    """The launcher's command and environment.

    Raises:
        SandboxUnavailableError: bubblewrap is missing, or there is no filter for this processor.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxUnavailableError(
            "model-written code runs only in a bubblewrap sandbox, and there is no `bwrap` here; install the system "
            "package `bubblewrap` (apt-get install bubblewrap, dnf install bubblewrap)"
        )
    try:
        seccomp_filter = seccomp.sandbox_filter()
    except seccomp.UnsupportedMachineError as error:
        raise SandboxUnavailableError(error.strerror or str(error)) from error
    description = {
        "bubblewrap": [bubblewrap, *_bubblewrap_arguments(interpreter.parents[1], limits)],
        "command": ["--remount-ro", "/", "--", str(interpreter), "-I", "-S", "-B", "/runner.pyc"],
        "prefix": str(interpreter.parents[1]),
        "runner": str(Path(__file__).with_name("runner.py")),
        "seccomp": seccomp_filter.hex(),
    }
    start = f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from ring_async.sandbox import launcher as l"
    command = [str(interpreter), "-I", "-S", "-B", "-c", f"{start}; l.main()", json.dumps(description)]
    return command, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def _bubblewrap_arguments(prefix: Path, limits: SandboxLimits) -> list[str]:
    """Arguments of bubblewrap that isolate a sandbox. The launcher puts the path of the interpreter for `@PREFIX@`."""
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    arguments += ["--as-pid-1", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    arguments += ["--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"]
    arguments += ["--setenv", "HOME", "/tmp"]  # noqa: S108
    arguments += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", name, name]
    if not prefix.is_relative_to("/usr"):
        arguments += ["--ro-bind", "@PREFIX@", str(prefix)]
    for name in ("null", "zero", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [*arguments, "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]  # noqa: S108

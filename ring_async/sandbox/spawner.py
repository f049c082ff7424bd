"""A small process that starts children by forking itself, and is the only one that kills them.

Owns: both ends of that arrangement. `Spawner` is the reward actor's end; `serve` is the loop of the small process.
Does not own: what a child becomes (`verifiers.isolation.worker`: a scoring worker; `launcher`: a sandbox).
Imports the standard library alone: the small process must start fast.

Why: forking a large multi-threaded process is slow and unsafe; a killed child must be replaced within milliseconds,
its libraries imported already; and only a parent can kill by process id without hitting a stranger's reused one.
Children die with the spawner, and the spawner ends when its client closes or dies: nothing outlives a killed actor.

The link is a SEQPACKET socket pair. Requests are JSON: `{"start": n}` with file descriptors attached, answered by
`{"pid": …}` or `{"error": …}`; `{"kill": pid}`, unanswered. The first message of the spawner says it is ready.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_MAX_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 8
_PARENT_DEATH_SIGNAL = 1
_CHILD_SUBREAPER = 36
_REAP_INTERVAL_S = 0.2
_END_TIMEOUT_S = 5.0


class SpawnerError(OSError):
    """The small process could not start, or is gone; the message holds what it said last."""


class Spawner:
    """Starts and kills children through the small process. Safe to use from several threads.

    Args:
        command: runs `serve` on the descriptor that is appended as the last argument.
        environment: of the small process and its children.
        start_timeout_s: until it must be ready.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], start_timeout_s: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._start_timeout_s = start_timeout_s
        self._is_ready = False
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the small process is gone, by itself or killed."""
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        """Block until the small process is ready.

        Raises:
            SpawnerError: it ended, or took longer than `start_timeout_s`.
        """
        with self._lock:
            self._wait_ready()

    def start(self, descriptors: Sequence[int]) -> int:
        """Fork a child that gets these descriptors; the caller closes its own copies.

        Returns:
            The child's process id, for `kill`.

        Raises:
            SpawnerError: it could not be forked, or the small process is gone.
        """
        with self._lock:
            self._wait_ready()
            try:
                socket.send_fds(self._socket, [b'{"start": 1}'], list(descriptors))
                answer = json.loads(self._receive(self._start_timeout_s))
            except OSError as error:
                raise SpawnerError(f"starting a child: {error}{self._last_words()}") from error
        if "error" in answer:
            raise SpawnerError(f"starting a child: {answer['error']}")
        return int(answer["pid"])

    def kill(self, pid: int) -> None:
        """Kill a child at once. One that ended already, or whose spawner is gone, is dead anyway."""
        with self._lock:
            try:
                self._socket.send(json.dumps({"kill": pid}).encode())
            except OSError:
                pass

    def close(self) -> None:
        """End the small process and its children, and wait for it."""
        with self._lock:
            self._socket.close()
            if not self._is_ready:  # it has no children, and may be importing for seconds yet
                self._process.kill()
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()

    def _wait_ready(self) -> None:
        if self._is_ready:
            return
        left_s = max(0.0, self._start_timeout_s - (time.monotonic() - self._started))
        try:
            answer = json.loads(self._receive(left_s))
        except OSError as error:
            raise SpawnerError(f"helper process: {error}{self._last_words()}") from error
        if "error" in answer:
            raise SpawnerError(answer["error"])
        self._is_ready = True

    def _receive(self, timeout_s: float) -> bytes:
        if not select.select([self._socket], [], [], timeout_s)[0]:
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        message = self._socket.recv(_MAX_MESSAGE_BYTES)
        if not message:
            raise ConnectionError("it ended")
        return message

    def _last_words(self) -> str:
        """What a dead process wrote to stderr; nothing while it lives, since reading would block."""
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return ""
        words = self._process.stderr.read(4096).decode(errors="replace").strip() if self._process.stderr else ""
        return f"; it said: {words[-1000:]}" if words else f"; exit status {self._process.returncode}"


def serve(link: socket.socket, become: Callable[[list[int]], None]) -> None:
    """The small process: say ready, then start and kill children until the link closes; then kill all and return.

    Consumes: requests on `link`. Produces: children. Waits for: a request, or the reap interval. Unblocked by: the
    client, whose death closes the link.

    Args:
        link: the SEQPACKET socket of this end.
        become: what a forked child does with the descriptors it was given; must not return.
    """
    children: set[int] = set()
    _adopt_orphans()
    link.send(b'{"ready": true}')
    try:
        while True:
            is_asked = bool(select.select([link], [], [], _REAP_INTERVAL_S)[0])
            _reap(children)
            if not is_asked:
                continue
            message, descriptors, _, _ = socket.recv_fds(link, _MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not message:
                return
            request = json.loads(message)
            if "kill" in request:
                if request["kill"] in children:
                    os.kill(request["kill"], signal.SIGKILL)
                continue
            link.send(json.dumps(_start(link, become, descriptors, children)).encode())
    except (ConnectionError, BrokenPipeError):
        return
    finally:
        _kill_descendants()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent's thread ends."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies: they are reaped here, not left to init."""
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """Kill and reap children, and whatever they leave behind, until none is left."""
    while True:
        for pid in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _start(
    link: socket.socket, become: Callable[[list[int]], None], descriptors: list[int], children: set[int]
) -> dict[str, object]:
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        return {"error": str(error)}
    finally:
        if os.getpid() == parent:
            for descriptor in descriptors:
                os.close(descriptor)
    if pid == 0:
        link.close()
        _become(become, descriptors, parent)
    children.add(pid)
    return {"pid": pid}


def _become(become: Callable[[list[int]], None], descriptors: list[int], parent: int) -> NoReturn:
    """The child's whole life: it must never return into the parent's loop."""
    status = 1
    try:
        die_with_parent()
        if os.getppid() == parent:  # else it died before the kernel was asked
            become(descriptors)
            status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(status)


def _reap(children: set[int]) -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        children.discard(pid)

"""One bubblewrap process, seen from outside: its messages, and its end.

Owns: frames to and from the harness inside. Does not own: what they mean (`session`), or the walls (`walls`).
"""

from __future__ import annotations

import json
import marshal
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from ring_async.errors import VerifierError
from ring_async.sandbox.activity import Activity, look_at
from ring_async.sandbox.spawner import Spawner

START_TIMEOUT_S = 20.0
_SEND_TIMEOUT_S = 30.0
_WATCH_INTERVAL_S = 0.05

Watch = Callable[[Activity, float], bool]
"""`(what goes on inside, seconds since the last look) -> whether to end the sandbox`."""


class Box:
    """A running sandbox. Made by `SandboxPool`; `end` must be called."""

    def __init__(self, spawner: Spawner, pid: int, connection: socket.socket, errors: int) -> None:
        self._spawner = spawner
        self._pid = pid
        self._connection = connection
        self._errors = errors
        self._is_ready = False

    def wait_ready(self) -> None:
        """Block until the harness inside is up.

        Raises:
            VerifierError: `sandbox_start`, with what bubblewrap said.
        """
        if not self._is_ready:
            try:
                self.receive(START_TIMEOUT_S)
            except VerifierError as error:
                raise VerifierError("sandbox_start", self._last_words() or str(error)) from error
            self._is_ready = True

    def send(self, message: dict[str, Any]) -> None:
        body = marshal.dumps(message)  # plain data, and the harness is spared the import of json
        try:
            self._connection.settimeout(_SEND_TIMEOUT_S)
            self._connection.sendall(len(body).to_bytes(4, "big") + body)
        except OSError as error:
            raise VerifierError("sandbox_died", str(error)) from error

    def receive(self, timeout_s: float, watch: Watch | None = None, max_bytes: int = 1 << 20) -> dict[str, Any] | None:
        """The next message; None if `watch` had the sandbox ended.

        Args:
            timeout_s: time on the clock until the machine, not the program, is at fault.
            watch: called every 50 ms or so while there is no message.
            max_bytes: of a message.

        Raises:
            VerifierError: `sandbox_died`, `sandbox_stalled`, or `sandbox_nonsense`.
        """
        started = looked = time.monotonic()
        received = bytearray()
        size = 4
        while len(received) < size:
            if not select.select([self._connection], [], [], _WATCH_INTERVAL_S)[0]:
                now = time.monotonic()
                if now > started + timeout_s:
                    raise VerifierError("sandbox_stalled", f"no answer within {timeout_s:g} s: a busy machine?")
                if watch is not None and watch(look_at(self._pid), now - looked):
                    self._spawner.kill(self._pid)
                    return None
                looked = now
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
                if size > max_bytes:
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

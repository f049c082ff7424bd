"""The thread and socket with which a sender of weights serves its receivers.

Owns: one ROUTER, its address, the thread that alone touches them, and how other threads wake it. Does not own: what is
said (`wire`; a channel passes its callbacks), nor who is admitted (`curve`).

Invariants: callbacks run in the thread, one at a time, and their errors are logged and end nothing but that callback;
whatever a stranger sends is counted and dropped. A callback that meets malformed bytes says so by
`msgspec.DecodeError`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from ring_async.config.schema import TransportSection
from ring_async.errors import WeightsError
from ring_async.transport.curve import CurveKeys, Door
from ring_async.transport.weights.wire import MAX_REQUEST_BYTES, set_options

_log = logging.getLogger(__name__)
_BATCH = 256
"""Messages read before other work of the thread gets its turn."""


class WeightService:
    """Runs callbacks on what receivers send.

    Args:
        name: of the socket, and the thread.
        transport: ipc or tcp, and the address to bind.
        socket_dir: for `ipc://`.
        keys: of the run; TCP is served with CURVE alone.
        on_message: called with the peer's routing id and the header.
        on_wake: called after `wake`, and every `tick_s`.
        tick_s: None: only after `wake`.

    Raises:
        WeightsError: the address cannot be bound, or TCP without keys.
    """

    def __init__(
        self,
        name: str,
        *,
        transport: TransportSection,
        socket_dir: Path,
        keys: CurveKeys | None,
        on_message: Callable[[bytes, bytes], None],
        on_wake: Callable[[], None],
        tick_s: float | None = None,
    ) -> None:
        self._on_message = on_message
        self._on_wake = on_wake
        self._tick_s = tick_s
        self._tick_ms = None if tick_s is None else int(tick_s * 1000)
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._door: Door | None = None
        self.num_malformed = 0
        try:
            set_options(self._socket, MAX_REQUEST_BYTES)
            self.endpoint = self._bind(name, transport, socket_dir)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise WeightsError(f"cannot bind the weight channel {name}: {error}") from error
        except WeightsError:
            self._context.destroy(linger=0)
            raise
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to serve; apart from construction, so that callbacks find their owner complete."""
        self._thread.start()

    def wake(self) -> None:
        """Have `on_wake` called soon. From any thread; after `close` nothing happens."""
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._wake_fd, 1)

    def send(self, peer: bytes, header: bytes, content: memoryview | None = None) -> None:
        """Send to one receiver; `content` goes uncopied. In callbacks only. Gone receivers are ignored."""
        if content is None:
            self._socket.send_multipart([peer, header])
        else:
            self._socket.send_multipart([peer, header, content], copy=False)

    def close(self) -> None:
        """Stop the thread and release the address. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)

    def _bind(self, name: str, transport: TransportSection, socket_dir: Path) -> str:
        if transport.kind == "ipc":
            self._socket.bind(f"ipc://{socket_dir / name}")
        else:
            if self._keys is None:
                raise WeightsError("weights go over TCP with the run's CURVE keys only, and none were given")
            self._door = Door(self._context, self._keys)
            self._keys.secure_server(self._socket)
            self._socket.bind(f"tcp://{transport.address}:*")
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _serve(self) -> None:
        """Serve until closed.

        Consumes: receivers' messages, handshakes of newcomers, wake-ups.
        Produces: callbacks; admission of the run's keys.
        Waits for: any of them, `tick_s` at most.
        Unblocked by: a receiver, `wake`, `close`.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.socket, zmq.POLLIN)
        try:
            woken_s = time.monotonic()
            while True:
                ready = dict(poller.poll(self._tick_ms))
                if self._wake_fd in ready:
                    os.eventfd_read(self._wake_fd)
                if self._is_closed:
                    return
                if self._door is not None and self._door.socket in ready:
                    self._door.answer_all()
                # Messages first: after a pause of this process, signs of life that lie here must count before silence.
                if self._socket in ready:
                    self._receive()
                is_tick_due = self._tick_s is not None and time.monotonic() - woken_s >= self._tick_s
                if self._wake_fd in ready or is_tick_due:
                    woken_s = time.monotonic()
                    self._run(self._on_wake)
        finally:
            self._context.destroy(linger=0)

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._run(self._on_message, peer, b"".join(frames))

    def _run(self, callback: Callable[..., None], *arguments: bytes) -> None:
        try:
            callback(*arguments)
        except msgspec.DecodeError:
            self.num_malformed += 1
        except Exception:
            # A thread that ended here would leave every receiver waiting for its deadline.
            _log.exception("%s: error while serving weights", self._thread.name)

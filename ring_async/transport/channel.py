"""The channel over ZMQ: one ROUTER an inbox, one DEALER an outbox, driven by the event loop.

Owns: sockets, their options, when they are read. Does not own: the session protocol (`outbox`, `inbox`), the bytes
(`codec`), keys (`curve`).

Invariants:

* Sockets are read in bounded batches, and inboxes named `control` before all others.
* High-water marks lie above the credits, so ZMQ never drops what the protocol let out; a DEALER queues nothing while
  it has no connection (IMMEDIATE), so nothing stale arrives after a reconnect.
* `tcp` sockets are CURVE or do not open; `ipc` sockets lie in a directory of mode 0700.

ZMQ's descriptor is edge-triggered: it tells once that something changed, and any call on the socket may swallow that.
Hence every transmission schedules a look at EVENTS on the loop's next turn. `zmq.asyncio` was rejected: it makes
several futures and timers for every message.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import zmq

from ring_async.config.schema import TransportSection
from ring_async.errors import TransportError
from ring_async.transport.codec import Codec
from ring_async.transport.curve import Authenticator, CurveKeys
from ring_async.transport.inbox import SessionInbox
from ring_async.transport.meter import Meter
from ring_async.transport.outbox import SessionOutbox

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

MAX_IPC_PATH_BYTES = 107
"""Longest address of a UNIX domain socket on Linux."""

BATCH = 64
"""Messages read from one socket before other sockets and tasks get their turn."""

LINGER_MS = 500
"""How long a closed socket goes on sending its last acknowledgements."""

CONTROL = "control"
"""Inboxes of this name are read before others."""


# Plain numbers: arithmetic on the enums costs more than the calls they go into.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_EVENTS = int(zmq.EVENTS)


class _Socket:
    """One ZMQ socket on the event loop: reads in batches, writes without blocking."""

    def __init__(self, socket: Socket) -> None:
        self._zmq = socket
        self._loop = asyncio.get_running_loop()
        self._is_poll_due = False
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self.poll)

    def poll(self) -> None:
        raise NotImplementedError

    def schedule_poll(self) -> None:
        if not self._is_poll_due:
            self._is_poll_due = True
            self._loop.call_soon(self.poll)

    def _events(self) -> int:
        return cast(int, self._zmq.getsockopt(_EVENTS))

    def shut(self, linger_ms: int) -> None:
        if not self._zmq.closed:
            self._loop.remove_reader(self._fd)
            self._zmq.close(linger=linger_ms)

    def _receive_frames(self, max_frames: int) -> list[zmq.Frame]:
        """The frames of one message, uncopied; those beyond `max_frames` + 1 are read and dropped."""
        receive = self._zmq.recv
        frame = receive(_NOBLOCK, False)
        frames = [frame]
        while frame.more:
            frame = receive(_NOBLOCK, False)
            if len(frames) <= max_frames:
                frames.append(frame)
        return frames

    def _send_frames(self, frames: Sequence[bytes | memoryview]) -> None:
        send = self._zmq.send
        last = len(frames) - 1
        for position, frame in enumerate(frames):
            send(frame, _NOBLOCK_MORE if position < last else _NOBLOCK, False)


class DealerLink(_Socket):
    """The connection of one outbox to its inbox. ZMQ reconnects by itself; a redirect opens another socket."""

    def __init__(self, transport: ZmqTransport, endpoint: str, outbox: SessionOutbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._routing_id = f"{transport.actor_id}#{secrets.token_hex(8)}".encode()[-255:]
        self._is_connected = False
        super().__init__(transport.dealer(endpoint, self._routing_id))
        self.schedule_poll()

    def transmit(self, frames: Sequence[bytes | memoryview]) -> bool:
        try:
            self._send_frames(frames)
        except zmq.Again:
            return False
        finally:
            self.schedule_poll()
        return True

    def redirect(self, endpoint: str) -> None:
        # before closing the old socket: a bad address must leave it as it was
        socket = self._transport.dealer(endpoint, self._routing_id)
        self.shut(linger_ms=0)
        self._is_connected = False
        super().__init__(socket)
        self.schedule_poll()

    def close(self) -> None:
        self.shut(LINGER_MS)

    def poll(self) -> None:
        self._is_poll_due = False
        if self._zmq.closed:
            return
        events = self._events()
        is_connected = bool(events & _POLLOUT)
        if is_connected != self._is_connected:
            self._is_connected = is_connected
            if is_connected:
                self._outbox.on_connected()
            else:
                self._outbox.on_disconnected()
        if not events & _POLLIN:
            return
        for _ in range(BATCH):
            try:
                frames = self._receive_frames(self._transport.limits.max_frames)
            except zmq.Again:
                return
            self._outbox.on_frames(frames)
            if self._zmq.closed:
                return
        self.schedule_poll()


class RouterLink(_Socket):
    """One inbox's socket."""

    def __init__(self, transport: ZmqTransport, socket: Socket, *, is_control: bool) -> None:
        self._transport = transport
        self._is_control = is_control
        self.inbox: SessionInbox | None = None
        super().__init__(socket)

    def transmit(self, address: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        try:
            self._send_frames((address, *frames))
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        finally:
            self.schedule_poll()
        return True

    def close(self) -> None:
        self._transport.forget(self)
        self.shut(LINGER_MS)

    def poll(self) -> None:
        self._is_poll_due = False
        if self._zmq.closed or self.inbox is None:
            return
        if not self._is_control:
            self._transport.poll_control()
        if not self._events() & _POLLIN:
            return
        receive, max_frames = self._zmq.recv, self._transport.limits.max_frames
        for _ in range(BATCH):
            try:
                address = receive(_NOBLOCK)
            except zmq.Again:
                return
            self.inbox.on_frames(address, self._receive_frames(max_frames))
        self.schedule_poll()


class ZmqTransport:
    """A `Transport` over ZMQ sockets. Use it within the running event loop.

    Args:
        actor_id: in whose name ends are opened.
        config: kind (`ipc` or `tcp`), address, credits, limits.
        socket_dir: holds the `ipc` sockets; see `make_socket_dir`.
        keys: of the run; `tcp` refuses to work without.
    """

    def __init__(self, actor_id: str, config: TransportSection, socket_dir: Path, keys: CurveKeys | None) -> None:
        if config.kind == "tcp" and keys is None:
            raise TransportError(f"{actor_id}: tcp needs the run's CURVE keys; see ring_async.transport.curve")
        self.actor_id = actor_id
        self.limits = config
        self._socket_dir = socket_dir
        self._keys = keys
        self._codec = Codec(config)
        self._context: Context = zmq.Context()
        self._authenticator: Authenticator | None = None
        self._routers: list[RouterLink] = []
        self._control: list[RouterLink] = []
        self._inboxes: list[SessionInbox] = []
        self._outboxes: list[SessionOutbox] = []
        self._meter = Meter()

    def open_inbox(self, name: str, *, credits: int | None = None, at: str = "") -> SessionInbox:  # noqa: A002
        """Open a receiving end.

        Args:
            name: of this inbox among the actor's own; `control` has priority over all others.
            credits: messages a sender may have under way here; None: the configured number.
            at: the endpoint of the inbox whose place this one takes; a port that somebody else has now is given up.

        Raises:
            TransportError: the address cannot be bound.
        """
        num_credits = self.limits.credits if credits is None else credits
        socket = self._context.socket(zmq.ROUTER)
        self._set_common_options(socket, num_credits)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if self.limits.kind == "tcp":
            assert self._keys is not None
            if self._authenticator is None:
                self._authenticator = Authenticator(self._context, self._keys)
            self._keys.secure_server(socket)
            address = f"tcp://{self.limits.address}:*"
        else:
            address = f"ipc://{self._ipc_path(name)}"
        try:
            _bind(socket, at, address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise TransportError(f"{self.actor_id}: cannot listen at {address}: {error}") from error
        endpoint = str(socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        inbox = SessionInbox(
            endpoint=endpoint, owner=f"{self.actor_id}/{name}", num_credits=num_credits, codec=self._codec
        )
        link = RouterLink(self, socket, is_control=name == CONTROL)
        link.inbox = inbox
        inbox.attach(link)
        self._routers.append(link)
        if name == CONTROL:
            self._control.append(link)
        self._inboxes.append(inbox)
        return inbox

    def connect(self, endpoint: str, *, peer: str) -> SessionOutbox:
        """Open a sending end to the inbox at `endpoint`, owned by actor `peer`; the inbox may come later."""
        outbox = SessionOutbox(endpoint=endpoint, sender=self.actor_id, peer=peer, codec=self._codec)
        outbox.attach(DealerLink(self, endpoint, outbox))
        self._outboxes.append(outbox)
        return outbox

    @property
    def denied(self) -> Counter[str]:
        """CURVE handshakes turned away, by cause."""
        return self._authenticator.denied if self._authenticator is not None else Counter()

    def observe(self) -> None:
        """Bring the figures of all ends to this process's metrics."""
        self._meter.update(self._outboxes, self._inboxes)

    async def close(self) -> None:
        """Close every end. Takes up to half a second while last acknowledgements leave."""
        for outbox in self._outboxes:
            await outbox.close()
        for inbox in self._inboxes:
            await inbox.close()
        self._outboxes.clear()
        self._inboxes.clear()
        if self._authenticator is not None:
            self._authenticator.close()
        await asyncio.to_thread(self._context.term)

    # -- what links call

    def dealer(self, endpoint: str, routing_id: bytes) -> Socket:
        """Open a DEALER that connects to `endpoint`."""
        socket = self._context.socket(zmq.DEALER)
        self._set_common_options(socket, self.limits.credits)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if endpoint.startswith("tcp://"):
            if self._keys is None:
                socket.close(linger=0)
                raise TransportError(f"{self.actor_id}: {endpoint} is tcp and needs the run's CURVE keys")
            self._keys.secure_client(socket)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise TransportError(f"{self.actor_id}: cannot connect to {endpoint!r}: {error}") from error
        return socket

    def poll_control(self) -> None:
        for link in self._control:
            link.poll()

    def forget(self, link: RouterLink) -> None:
        self._routers.remove(link)
        if link in self._control:
            self._control.remove(link)

    def _set_common_options(self, socket: Socket, num_credits: int) -> None:
        high_water_mark = max(1000, 4 * num_credits)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        # A frame up to twice the limit is read, counted and dropped, and the connection lives. Beyond that libzmq cuts
        # the connection before it sets memory aside.
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * max(self.limits.max_frame_bytes, self.limits.max_header_bytes))
        if self.limits.kind == "tcp":
            socket.setsockopt(zmq.HEARTBEAT_IVL, 2_000)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)

    def _ipc_path(self, name: str) -> Path:
        path = self._socket_dir / f"{self.actor_id}.{name}"
        if len(str(path).encode()) > MAX_IPC_PATH_BYTES:
            digest = hashlib.blake2b(path.name.encode(), digest_size=8).hexdigest()
            path = self._socket_dir / digest
        if len(str(path).encode()) > MAX_IPC_PATH_BYTES:
            raise TransportError(
                f"{self._socket_dir} is too long for a socket's address ({MAX_IPC_PATH_BYTES} bytes); "
                "use make_socket_dir()"
            )
        return path


def _bind(socket: Socket, at: str, address: str) -> None:
    """Listen at `at` if that is given and free, else at `address`."""
    if at:
        try:
            socket.bind(at)
        except zmq.ZMQError as error:
            log.warning("cannot listen at %s again: %s", at, error)
        else:
            return
    socket.bind(address)

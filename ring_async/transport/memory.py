"""The channel inside one process: the same sessions as over ZMQ, without sockets.

Owns: a hub that hands frames from outboxes to inboxes on the event loop. Does not own: the session protocol.
Invariants: messages are encoded and decoded as on the wire, buffers are passed by reference (read-only); only the
loop's own clock is used, so a virtual clock moves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence

from ring_async.config.schema import TransportSection
from ring_async.errors import TransportError
from ring_async.transport.codec import Codec
from ring_async.transport.inbox import SessionInbox
from ring_async.transport.meter import Meter
from ring_async.transport.outbox import SessionOutbox


class MemoryFrame:
    """A frame that is a view of the sender's memory."""

    __slots__ = ("buffer",)

    def __init__(self, data: bytes | memoryview) -> None:
        self.buffer = memoryview(data).toreadonly()

    def __len__(self) -> int:
        return self.buffer.nbytes


class MemoryHub:
    """Where the ends of one process meet. `testing.faulty_channel` derives one that loses and delays frames.

    Args:
        limits: of messages, as on the wire.
    """

    def __init__(self, limits: TransportSection | None = None) -> None:
        self.limits = limits or TransportSection()
        self._inboxes: dict[str, tuple[str, SessionInbox]] = {}
        self._links: dict[bytes, MemoryLink] = {}
        self._numbers = itertools.count(1)

    def dispatch(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Bring one message from actor `source` to actor `target`."""
        asyncio.get_running_loop().call_soon(deliver)

    def is_open(self, endpoint: str) -> bool:
        """Whether somebody listens at an endpoint."""
        return endpoint in self._inboxes

    def open(self, endpoint: str, owner: str, inbox: SessionInbox) -> None:
        if endpoint in self._inboxes:
            raise TransportError(f"an inbox is open at {endpoint} already")
        self._inboxes[endpoint] = (owner, inbox)
        for link in list(self._links.values()):
            if link.endpoint == endpoint:
                self.announce(link)

    def shut(self, endpoint: str) -> None:
        self._inboxes.pop(endpoint, None)
        for link in list(self._links.values()):
            if link.endpoint == endpoint:
                link.outbox.on_disconnected()

    def join(self, link: MemoryLink) -> bytes:
        address = f"{link.owner}#{next(self._numbers)}".encode()
        self._links[address] = link
        self.announce(link)
        return address

    def leave(self, address: bytes) -> None:
        self._links.pop(address, None)

    def announce(self, link: MemoryLink) -> None:
        """Tell an outbox, on the loop's next turn, that its inbox is there."""
        if link.endpoint in self._inboxes:
            asyncio.get_running_loop().call_soon(link.outbox.on_connected)

    def to_inbox(self, link: MemoryLink, frames: Sequence[bytes | memoryview]) -> bool:
        place = self._inboxes.get(link.endpoint)
        if place is None:
            return False
        owner, inbox = place
        endpoint, address, wrapped = link.endpoint, link.address, [MemoryFrame(frame) for frame in frames]

        def deliver() -> None:
            # What was under way to an inbox dies with it.
            if self._inboxes.get(endpoint, (None, None))[1] is inbox:
                inbox.on_frames(address, wrapped)

        self.dispatch(link.owner, owner, deliver)
        return True

    def to_outbox(self, endpoint: str, owner: str, address: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        link = self._links.get(address)
        if link is None or link.endpoint != endpoint:
            return False
        wrapped = [MemoryFrame(frame) for frame in frames]

        def deliver() -> None:
            if self._links.get(address) is link and link.endpoint == endpoint:
                link.outbox.on_frames(wrapped)

        self.dispatch(owner, link.owner, deliver)
        return True


class MemoryLink:
    """One outbox's way to its inbox, through the hub."""

    def __init__(self, hub: MemoryHub, owner: str, endpoint: str, outbox: SessionOutbox) -> None:
        self.owner = owner
        self.endpoint = endpoint
        self.outbox = outbox
        self._hub = hub
        self.address = hub.join(self)

    def transmit(self, frames: Sequence[bytes | memoryview]) -> bool:
        return self._hub.to_inbox(self, frames)

    def redirect(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._hub.announce(self)

    def close(self) -> None:
        self._hub.leave(self.address)


class _MemoryReplyLink:
    def __init__(self, hub: MemoryHub, owner: str, endpoint: str) -> None:
        self._hub = hub
        self._owner = owner
        self._endpoint = endpoint

    def transmit(self, address: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        return self._hub.to_outbox(self._endpoint, self._owner, address, frames)

    def close(self) -> None:
        self._hub.shut(self._endpoint)


class MemoryTransport:
    """A `Transport` inside one process. Use it within the running event loop.

    Args:
        actor_id: in whose name ends are opened.
        hub: shared by all actors of the process.
    """

    def __init__(self, actor_id: str, hub: MemoryHub) -> None:
        self._actor_id = actor_id
        self._hub = hub
        self._codec = Codec(hub.limits)
        self._inboxes: list[SessionInbox] = []
        self._outboxes: list[SessionOutbox] = []
        self._meter = Meter()

    def open_inbox(self, name: str, *, credits: int | None = None, at: str = "") -> SessionInbox:  # noqa: A002
        """Open a receiving end at `at`, or at `memory://<actor_id>/<name>`.

        Raises:
            TransportError: one is open there already.
        """
        endpoint = at if at and not self._hub.is_open(at) else f"memory://{self._actor_id}/{name}"
        inbox = SessionInbox(
            endpoint=endpoint,
            owner=f"{self._actor_id}/{name}",
            num_credits=self._hub.limits.credits if credits is None else credits,
            codec=self._codec,
        )
        inbox.attach(_MemoryReplyLink(self._hub, self._actor_id, endpoint))
        self._hub.open(endpoint, self._actor_id, inbox)
        self._inboxes.append(inbox)
        return inbox

    def connect(self, endpoint: str, *, peer: str) -> SessionOutbox:
        """Open a sending end; the inbox may come later."""
        outbox = SessionOutbox(endpoint=endpoint, sender=self._actor_id, peer=peer, codec=self._codec)
        outbox.attach(MemoryLink(self._hub, self._actor_id, endpoint, outbox))
        self._outboxes.append(outbox)
        return outbox

    def observe(self) -> None:
        """Bring the figures of all ends to this process's metrics."""
        self._meter.update(self._outboxes, self._inboxes)

    async def close(self) -> None:
        """Close every end, outboxes first; an interruption ends the wait of one end, and the others are closed too."""
        async with contextlib.AsyncExitStack() as ends:
            for inbox in self._inboxes:
                ends.push_async_callback(inbox.close)
            for outbox in self._outboxes:
                ends.push_async_callback(outbox.close)
        self._outboxes.clear()
        self._inboxes.clear()

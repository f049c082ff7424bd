"""The protocols of message channels, and what every channel promises.

Owns: the protocols. `channel` implements them over ZMQ, `memory` inside one process; one contract suite runs over all.

An `Inbox` belongs to one actor and receives from many; an `Outbox` leads to one inbox. Two kinds of traffic:

* `send`: at least once, acknowledged by the receiver after its durable commit. The sender keeps the message until
  then, and sends it again when either end restarts. Receivers are idempotent by `message_id`.
* `request`: one question, one answer, a deadline. Not repeated by the channel.

Credits bound what may be under way: a sender without credit waits, and `waiting_for` says on whom and how long.
Nothing is dropped silently, and no queue grows without bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ring_async.columns import Buffer
from ring_async.transport.messages.base import Message


class Answer(NamedTuple):
    """The answer to a request. Buffers are views into the received frames, uncopied."""

    message: Message
    buffers: tuple[memoryview, ...]


class Delivery(Protocol):
    """One received message. Its credit returns to the sender when it is acknowledged, answered or refused."""

    sender: str
    """Actor id of the sender."""
    message: Message
    buffers: tuple[memoryview, ...]
    """Views into the received frames, uncopied; they keep the frames alive."""

    def ack(self) -> None:
        """Tell the sender that the message is safe here. Idempotent."""
        ...

    def reply(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Answer a request."""
        ...

    def refuse(self, reason: str) -> None:
        """Refuse the message: the sender's `request` or `send` raises `RefusedError(reason)`."""
        ...


class Inbox(Protocol):
    """The receiving end that an actor owns."""

    endpoint: str
    """Where outboxes connect: `ipc://…`, `tcp://host:port`, `memory://…`."""

    async def receive(self) -> Delivery:
        """Wait for the next message. Messages of one sender arrive in the order sent."""
        ...

    def receive_nowait(self) -> Delivery | None:
        """The next message, if one is here already."""
        ...

    async def close(self) -> None:
        """Stop receiving and release the endpoint. Unacknowledged messages are sent again to a successor."""
        ...


class Outbox(Protocol):
    """The sending end: leads to one inbox."""

    endpoint: str

    async def send(self, message: Message, buffers: Sequence[Buffer] = (), *, message_id: str) -> asyncio.Future[None]:
        """Hand over a message, waiting for credit first.

        Returns:
            A future that resolves when the receiver acknowledges, and raises `RefusedError` if it refuses.
        """
        ...

    async def request(self, message: Message, buffers: Sequence[Buffer] = (), *, timeout_s: float) -> Answer:
        """Ask and wait for the answer.

        Raises:
            PeerTimeoutError: no answer before the deadline; names the peer.
            RefusedError: the peer said no, with its reason.
        """
        ...

    async def redirect(self, endpoint: str) -> None:
        """The peer lives at another endpoint now: connect there and send what was unacknowledged again."""
        ...

    @property
    def num_unacknowledged(self) -> int: ...

    @property
    def waiting_for(self) -> str | None:
        """`credit from replay-0, 12 s` while a sender waits, else None."""
        ...

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Wait up to `drain_s` for acknowledgements, then close. Unacknowledged messages raise `TransportError`."""
        ...


class Transport(Protocol):
    """Makes both ends, in the name of one actor."""

    def open_inbox(self, name: str, *, credits: int | None = None, at: str = "") -> Inbox:  # noqa: A002
        """Open a receiving end.

        Args:
            name: of this inbox among the actor's own, e.g. `control` or `data`.
            credits: messages a sender may have under way here; None: the configured number.
            at: the endpoint of the inbox whose place this one takes; it listens there again, or elsewhere if somebody
                else does now.
        """
        ...

    def connect(self, endpoint: str, *, peer: str) -> Outbox:
        """Open a sending end to the inbox at `endpoint`, owned by actor `peer` (for messages to people)."""
        ...

    def observe(self) -> None:
        """Update this process's metrics from the counters of all ends; cheap enough for every heartbeat."""
        ...

    async def close(self) -> None: ...

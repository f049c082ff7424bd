"""What the two ends of a weight channel say to each other over ZMQ, and the receivers' sockets.

Owns: the messages of `weights_zmq` (fetching) and `weights_nccl` (rounds), their encoding, the options of sockets. Does
not own: who says what when, nor the senders' sockets (`weights_service`).

Invariants: a message is one MessagePack header frame of a declared struct, and for `Chunk` one raw frame. Nothing else
is understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import zmq

from ring_async.errors import WeightsError
from ring_async.types import PolicyVersion

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

MAX_REQUEST_BYTES = 64 << 10
"""Longest message to a sender; ZMQ cuts off whoever sends more."""
MAX_ANSWER_BYTES = 64 << 20
"""Longest message to a receiver: chunks, and the table of a delta."""
MAX_CHUNK_BYTES = 4 << 20

encode = msgspec.msgpack.Encoder().encode


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Root of all messages here."""


class Open(Wire, frozen=True, tag=1):
    """Receiver: what would I have to fetch of `version`, holding `base` (or nothing)?"""

    version: PolicyVersion
    base: PolicyVersion | None


class Ask(Wire, frozen=True, tag=2):
    """Receiver: send bytes `[start, start + num_bytes)` of the payload opened."""

    version: PolicyVersion
    base: PolicyVersion | None
    start: int
    num_bytes: int


class Opened(Wire, frozen=True, tag=11):
    """Sender: the payload. `base` None: the version's own bytes; else a delta, with kind and bytes of each bucket."""

    version: PolicyVersion
    asked_base: PolicyVersion | None
    base: PolicyVersion | None
    num_bytes: int
    buckets: tuple[tuple[str, int], ...]


class Chunk(Wire, frozen=True, tag=12):
    """Sender: bytes from `start` on, in a second frame."""

    version: PolicyVersion
    base: PolicyVersion | None
    start: int


class Gone(Wire, frozen=True, tag=13):
    """Sender: the version was retired, or never published here."""

    version: PolicyVersion


def open_dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: CurveKeys | None) -> zmq.Socket[bytes]:
    """Connect a receiver's end. ZMQ keeps trying, also after the sender restarts at the same address.

    Raises:
        WeightsError: the endpoint is on TCP and there are no keys, or it is none.
    """
    socket = context.socket(zmq.DEALER)
    set_options(socket, MAX_ANSWER_BYTES)
    try:
        if not endpoint.startswith("ipc://"):
            if keys is None:
                raise WeightsError(
                    f"{endpoint}: weights go over TCP with the run's CURVE keys only, and none were given"
                )
            keys.secure_client(socket)
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise WeightsError(f"{endpoint}: cannot connect: {error}") from error
    except WeightsError:
        socket.close()
        raise
    return socket


def set_options(socket: zmq.Socket[bytes], max_message_bytes: int) -> None:
    """What both ends share: nothing lingers, and a peer that vanished is noticed within ten seconds."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)


# -- weights_nccl


class Join(Wire, frozen=True, tag=31):
    """Receiver: I am here, holding `version`; on first contact, and when told that I am not known."""

    member: str
    version: PolicyVersion | None


class Alive(Wire, frozen=True, tag=32):
    """Receiver: a sign of life."""

    member: str


class Ready(Wire, frozen=True, tag=33):
    """Receiver: I stand at the gate, with memory to receive into."""

    member: str
    round: int


class Staged(Wire, frozen=True, tag=34):
    """Receiver: the version is here, whole and verified."""

    member: str
    round: int


class Failed(Wire, frozen=True, tag=35):
    """Receiver: I cannot take part, or got something else than what was sent."""

    member: str
    round: int
    reason: str


class Leave(Wire, frozen=True, tag=36):
    """Receiver: goodbye."""

    member: str


class Offer(Wire, frozen=True, tag=41):
    """Sender: a broadcast is about to start. `unique_id` is empty where the communicator is one you have.

    `layout` is an encoded `Layout`: mostly the same as last time, and then it need not be decoded.
    """

    round: int
    version: PolicyVersion
    layout: bytes
    communicator: int
    num_ranks: int
    rank: int
    unique_id: bytes


class Go(Wire, frozen=True, tag=42):
    """Sender: everybody is at the gate; enter."""

    round: int


class Off(Wire, frozen=True, tag=43):
    """Sender: the round is off; abort what you have begun."""

    round: int
    reason: str


class Checksums(Wire, frozen=True, tag=44):
    """Sender: fold64 of every bucket of the round."""

    round: int
    checksums: tuple[int, ...]


class Welcome(Wire, frozen=True, tag=45):
    """Sender: I am alive, and you are known to me."""


class NotKnown(Wire, frozen=True, tag=46):
    """Sender: I am alive, and do not know you; join."""

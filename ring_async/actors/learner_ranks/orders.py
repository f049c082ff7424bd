"""What rank 0 of a learner tells the other ranks, and what they answer, over a pair of connected sockets.

Owns: the orders, the answers, and their frames: a length of four bytes, then MessagePack. Does not own what an order
does (`follower`), nor when it is given (`group`).
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

from ring_async.errors import ConfigError, DivergedError, RingAsyncError, StorageError
from ring_async.transport.curve import CurveKeys
from ring_async.types import PolicyVersion

BATCH_POLL_S = 5.0
"""How long replay may hold a rank's request for its rows before it answers why there are none."""

SHARED_ERRORS: tuple[type[RingAsyncError], ...] = (ConfigError, DivergedError, StorageError)
"""What every rank meets, as all do the same: an `Answer` carries it to rank 0, and the rank goes on."""

_LENGTH = struct.Struct("<I")


class Order(msgspec.Struct, frozen=True, tag=True):
    """Ranks carry orders out in the order given: what computes on one thread, as rank 0 does."""


class Begin(Order, frozen=True):
    """The first order: which rank this is, and of what run."""

    rank: int
    actor_id: str
    store: str
    config: str
    """The resolved configuration, as JSON."""
    run_dir: str
    socket_dir: str
    keys: CurveKeys | None


class Fetch(Order, frozen=True):
    """Fetch this rank's rows of a batch from the planner. Given again, it names a new endpoint."""

    plan_number: int
    policy_version: PolicyVersion
    endpoint: str


class Train(Order, frozen=True):
    """Train on the rows fetched."""

    plan_number: int


class Publish(Order, frozen=True):
    """Take a snapshot, and give rank 0 the slices that it asks for while training goes on."""


class Tune(Order, frozen=True):
    knobs: dict[str, Any]


class Capture(Order, frozen=True):
    """Take the state of a checkpoint."""


class Write(Order, frozen=True):
    """Write this rank's files of the state captured last, while training goes on."""

    folder: str


class Restore(Order, frozen=True):
    folder: str


class Leave(Order, frozen=True):
    """The last order."""


class Given(msgspec.Struct, frozen=True):
    """An order with its number, which its answer carries too."""

    number: int
    order: Begin | Fetch | Train | Publish | Tune | Capture | Write | Restore | Leave


class Answer(msgspec.Struct, frozen=True):
    """An order was carried out, or refused by an error that every rank meets (`kind` names its class)."""

    number: int
    kind: str = ""
    error: str = ""


_encoder = msgspec.msgpack.Encoder()
given_decoder = msgspec.msgpack.Decoder(Given)
answer_decoder = msgspec.msgpack.Decoder(Answer)


def encode(message: Given | Answer) -> bytes:
    """The content of a message's frame."""
    return _encoder.encode(message)


def frame(message: Given | Answer) -> bytes:
    """A message as it is sent over a socket."""
    content = encode(message)
    return _LENGTH.pack(len(content)) + content


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The content of the next frame; b"" once the other end is closed."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""

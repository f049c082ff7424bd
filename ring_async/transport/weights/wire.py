"""What the two ends of a weight channel say to each other over ZMQ, and the receivers' sockets.

Owns: the root of their messages, its encoding, the options of sockets. Does not own: the messages (`zmq.wire`,
`nccl.wire`), who says what when, nor the senders' sockets (`service`).

Invariants: a message is one MessagePack header frame of a declared struct, and for `Chunk` one raw frame. Nothing else
is understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import zmq

from ring_async.errors import WeightsError

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

MAX_REQUEST_BYTES = 64 << 10
"""Longest message to a sender; ZMQ disconnects a receiver that sends a longer one."""
MAX_ANSWER_BYTES = 64 << 20
"""Longest message to a receiver: chunks, and the table of a delta."""
MAX_CHUNK_BYTES = 4 << 20

encode = msgspec.msgpack.Encoder().encode


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Root of all messages here."""


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

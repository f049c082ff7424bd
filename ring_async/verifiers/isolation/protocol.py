"""What a verifier's client and its worker process say to each other.

Frames on a socket: a 4-byte length, then MessagePack; `Work` goes in, `Outcome` comes out. A worker reads text that may
be hostile, so nothing it sends is unpickled, or trusted beyond its type.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from ring_async.types import Prompt
from ring_async.verifiers.base import Isolation

_LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 64 << 20


class HostDescription(msgspec.Struct, frozen=True):
    """What a host is told when it starts."""

    name: str
    use: str
    options: dict[str, Any]
    isolation: Isolation
    memory_bytes: int
    import_path: list[str]


class Work(msgspec.Struct, frozen=True, array_like=True):
    """One response to judge."""

    prompt: Prompt
    text: str
    num_tokens: int
    finish_reason: str


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """A verdict, or why there is none (`cause` set)."""

    reward: float = 0.0
    parts: dict[str, float] = {}
    explanation: str = ""
    seconds: float = 0.0
    cause: str = ""


def frame(message: msgspec.Struct) -> bytes:
    """The bytes of a message. What MessagePack cannot hold becomes text: integers beyond 64 bits their digits, lone
    surrogates question marks.
    """
    try:
        body = msgspec.msgpack.encode(message)
    except (OverflowError, UnicodeEncodeError):
        body = msgspec.msgpack.encode(_encodable(msgspec.to_builtins(message)))
    return _LENGTH.pack(len(body)) + body


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def frame_length(prefix: bytes) -> int:
    """The length that a frame's first four bytes announce.

    Raises:
        ValueError: longer than any honest frame.
    """
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {length} bytes")
    return int(length)

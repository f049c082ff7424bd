"""What the two ends of the ZMQ channel say to each other: opening a version, asking for its bytes, getting them."""

from __future__ import annotations

from ring_async.transport.weights.wire import Wire
from ring_async.types import PolicyVersion

CHANNEL = "zmq"


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

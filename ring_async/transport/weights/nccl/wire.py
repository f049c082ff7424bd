"""What the two ends of the NCCL channel agree on: its name, its pace, and the messages of a broadcast round.

Owns: constants and message structs. Does not own: who says what when (`core.weights.broadcast_rounds`), nor sockets.
"""

from __future__ import annotations

from ring_async.transport.weights.wire import Wire
from ring_async.types import PolicyVersion

NCCL_MIN_BUCKET_BYTES = 512 << 20
"""NCCL needs large messages: between two H200s 32 MiB reach 88 % of the speed of 512 MiB, 128 MiB 97 %."""

CHANNEL = "nccl"
ALIVE_S = 0.5
"""How often a receiver says that it lives."""


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

    `layout` is an encoded `WeightsLayout`: mostly the same as last time, and then it need not be decoded.
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

"""A session: the state that an inbox keeps for one sender.

Owns: which messages were accepted, which are unsettled, and outcomes not yet heard. Does not own: when to send what
(`inbox`).
Invariants: outcomes are numbered from 1 without gaps; one is forgotten only when it was transmitted and heard.
"""

from __future__ import annotations

import secrets
from collections import deque

import msgspec


class HeldAnswer(msgspec.Struct):
    """An answer that its sender has not heard yet."""

    seq: int
    encoded: bytes
    buffers: tuple[memoryview, ...]


Settlement = tuple[int, str | None]
"""(seq, None) when acknowledged, (seq, reason) when refused."""

Outcome = Settlement | HeldAnswer


class Session:
    """The state of one sender's outbox, as this inbox knows it."""

    __slots__ = (
        "accepted",
        "address",
        "first_unheard",
        "has_complained",
        "last_seen_s",
        "number",
        "outcomes",
        "pending",
        "sender",
        "transmitted",
    )

    def __init__(self, address: bytes, sender: str, now_s: float) -> None:
        self.address = address
        self.sender = sender
        self.number = secrets.randbits(62) | 1
        """Number of this session; a sender that was forgotten and returns gets another."""
        self.accepted = -1
        """`seq` of the last message accepted."""
        self.pending: set[int] = set()
        """`seq` of messages accepted and not settled."""
        self.outcomes: deque[Outcome] = deque()
        self.first_unheard = 1
        """Number of `outcomes[0]`."""
        self.transmitted = 0
        """Number of the last outcome handed to the link."""
        self.has_complained = False
        """This inbox told the sender of a gap, and has accepted nothing since."""
        self.last_seen_s = now_s

    def hear(self, heard: int) -> None:
        """Note that the sender has received outcomes up to and including number `heard`."""
        # A receipt for an outcome that was never transmitted is a fault of the sender: nothing is forgotten.
        while self.first_unheard <= min(heard, self.transmitted):
            self.outcomes.popleft()
            self.first_unheard += 1

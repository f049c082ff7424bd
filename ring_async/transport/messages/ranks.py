"""Messages between rank 0 of a learner and the processes that stand for it on its other hosts."""

from __future__ import annotations

from ring_async.transport.messages.base import Message


class GiveOrder(Message, frozen=True):
    """Give a rank an order, as `learner_ranks.orders` encodes it; `is_last`: the rank ends when it is done."""

    rank: int
    content: bytes
    is_last: bool = False


class RankAnswered(Message, frozen=True):
    """A rank's answer, as `learner_ranks.orders` encodes it."""

    content: bytes


class AreRanksAlive(Message, frozen=True):
    """Asked every second. Answered with `Done`, or refused with the name of the rank that is gone."""

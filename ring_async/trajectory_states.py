"""Where a trajectory is in its life, and how it ended.

Owns: the closed sets of states and causes, and the struct in which replay reports them to the ledger. Does not own the
transitions
(`core.work.ledger`) nor the decisions (`core.replay`).
Invariants: on the wire and on disk a state is its name, as a string.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class TrajectoryStatus(StrEnum):
    """One state of a trajectory's life; `core.work.ledger` draws the transitions."""

    GENERATING = "generating"
    GENERATED = "generated"
    SCORED = "scored"
    BUFFERED = "buffered"
    CONSUMED = "consumed"
    RETIRED = "retired"
    EVICTED = "evicted"
    DROPPED = "dropped"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the trajectory has ended: its state never changes again."""
        return self in END_STATES

    @property
    def is_under_way(self) -> bool:
        """Whether the trajectory is not durable in replay yet, so that its owner must still deliver it."""
        return self in UNDER_WAY_STATES


class EndCause(StrEnum):
    """Why a trajectory was evicted or dropped. Causes of `failed` are an open set: they name verifiers, faults."""

    NONE = ""
    PROMPT_REFUSED = "prompt_refused"
    NO_SIGNAL = "no_signal"
    TRUNCATED = "truncated"
    NO_LOSS_TOKENS = "no_loss_tokens"
    ROW_TOO_SHORT = "row_too_short"
    LEFTOVER = "leftover"
    RESCORED = "rescored"
    UNJUDGED = "unjudged"
    STALE = "stale"
    RETENTION = "retention"


UNDER_WAY_STATES: Final = (TrajectoryStatus.GENERATING, TrajectoryStatus.GENERATED, TrajectoryStatus.SCORED)
HELD_STATES: Final = (TrajectoryStatus.BUFFERED, TrajectoryStatus.CONSUMED)
"""States of a trajectory that is durable in replay and has not ended."""

LIVE_STATES: Final = UNDER_WAY_STATES + HELD_STATES
END_STATES: Final = (
    TrajectoryStatus.RETIRED,
    TrajectoryStatus.EVICTED,
    TrajectoryStatus.DROPPED,
    TrajectoryStatus.FAILED,
)


class TrajectoryState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One trajectory's new state, as the ledger hears of it.

    Attributes:
        cause: an `EndCause`, or why it failed; empty where the state needs none.
        reward: said once, when replay takes the trajectory in.
    """

    trajectory_id: str
    state: TrajectoryStatus
    cause: str = ""
    num_tokens: int = 0
    reward: float | None = None

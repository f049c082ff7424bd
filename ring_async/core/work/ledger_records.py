"""The records of the ledger: what the journal holds, and all that moves the account.

Owns: their form. Does not own what they do to the account (`ledger`), nor the file (`storage.journal_file`).
Invariant: the same records in the same order give the same ledger.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.trajectory_states import TrajectoryState, TrajectoryStatus
from ring_async.types import Reservation


class Record(msgspec.Struct, frozen=True, tag=True):
    """Root of what the journal holds."""


class GroupReserved(Record, frozen=True):
    """A group was granted to `owner`: its K trajectories are `group_id/0 … group_id/K-1`."""

    reservation: Reservation
    owner: str


class GroupReissued(Record, frozen=True):
    """A group was granted again, now to `owner`, because its lease ran out or its former owner died."""

    group_id: str
    owner: str


class GroupReturned(Record, frozen=True):
    """A group was given up: its trajectories that are not durable in replay are `failed(cause)`.

    `is_dropped`: no fault of a machine is behind it, and they are `dropped(cause)`.
    """

    group_id: str
    cause: str
    is_dropped: bool = False


class StatesMoved(Record, frozen=True):
    """Replay (or another actor) reported new states of trajectories."""

    states: tuple[TrajectoryState, ...]


class Noted(Record, frozen=True):
    """The newest value of a small thing that must survive with the ledger: a cursor, an epoch, the last checkpoint."""

    key: str
    value: Any


class LedgerSnapshot(Record, frozen=True):
    """A whole ledger: where a rotated journal begins. `num_parts` records `SnapshotPart` with further groups follow."""

    counts: dict[str, int]
    causes: dict[str, int]
    live: dict[str, tuple[Reservation | None, str, tuple[TrajectoryStatus, ...]]]
    ended: dict[str, tuple[TrajectoryStatus, ...]]
    notes: dict[str, Any]
    num_reserved: int
    num_reissued: int
    num_adopted: int
    failed: dict[str, str] = {}
    """The causes of failed trajectories of remembered groups: they count no more if the trajectory arrives after all.
    """
    forgotten: dict[str, list[tuple[int, int]]] = {}
    """Indices of the groups of each source that ended so long ago that only the counts include them, as runs."""
    num_parts: int = 0


class SnapshotPart(Record, frozen=True):
    """Some of the groups of a snapshot, whose one record would be too large to write without a pause."""

    live: dict[str, tuple[Reservation | None, str, tuple[TrajectoryStatus, ...]]]
    ended: dict[str, tuple[TrajectoryStatus, ...]]


AnyRecord = GroupReserved | GroupReissued | GroupReturned | StatesMoved | Noted | LedgerSnapshot | SnapshotPart

"""The account of every trajectory: in which state each trajectory that was ever reserved is now.

    generating ──▶ generated ──▶ scored ──▶ buffered ──▶ consumed ──▶ retired
        └───────────────┴───────────┴──▶ failed(cause) · dropped(cause)  └──▶ evicted(stale) · dropped(rescored)

Owns: the transitions between states (`trajectory_states` lists these), and the counts. Records in (`apply`),
changes out; the same records in the same order give the same ledger, so a journal of them is enough to rebuild it. Does
not own
the file, leases, or payloads.
Invariants: reserved = sum of all states; a record applied twice changes nothing; a late message never moves a
trajectory back.

The unit is the trajectory; a reservation covers one group of K. A trajectory that was partly trained before its rest
was evicted or dropped ends as `evicted` or `dropped`: the state says what became of its last token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from ring_async.core.ids import IdError, split_id, trajectory_id_for
from ring_async.core.work.ended_groups import EndedGroups
from ring_async.core.work.ledger_records import (
    AnyRecord,
    GroupReissued,
    GroupReserved,
    GroupReturned,
    LedgerSnapshot,
    Noted,
    SnapshotPart,
    StatesMoved,
)
from ring_async.errors import RunError
from ring_async.trajectory_states import (
    END_STATES,
    HELD_STATES,
    LIVE_STATES,
    UNDER_WAY_STATES,
    TrajectoryState,
    TrajectoryStatus,
)
from ring_async.types import Reservation

STATES: Final = LIVE_STATES + END_STATES
_RANK: Final = {state: rank for rank, state in enumerate(LIVE_STATES)}

_States = tuple[TrajectoryStatus, ...]

MAX_GROUPS_PER_PART: Final = 256
"""Groups in one record of a snapshot. A prompt with its tests may take 40 KiB; 10 MB are encoded in a few ms."""


class LedgerError(RunError):
    """The account does not add up, or a transition is impossible; the message names the trajectory."""


class Applied(msgspec.Struct, frozen=True):
    """The changes by a record: trajectories that moved, and groups of which every trajectory has now ended."""

    moved: tuple[TrajectoryState, ...] = ()
    ended_groups: tuple[str, ...] = ()


class LiveGroup(msgspec.Struct, frozen=True):
    """A group with at least one trajectory that has not ended. `reservation` is None if replay knew it first.

    Replaced, never changed: a snapshot that is still being written keeps the groups of its moment.
    """

    reservation: Reservation | None
    owner: str
    states: tuple[TrajectoryStatus, ...]

    @property
    def is_under_way(self) -> bool:
        """Whether the group is not durable in replay yet, so that its owner must still deliver it."""
        return any(state in UNDER_WAY_STATES for state in self.states)


class Ledger:
    """The states of all trajectories, by group, and how many are in each.

    Example:
        `GroupReserved` of `g0` with K = 2 puts `g0/0` and `g0/1` into `generating`. Replay reports `g0/0` buffered and
        `g0/1` dropped: `StatesMoved`. `counts()` says 2 reserved, 1 buffered, 1 dropped; a late report that `g0/0` was
        generated changes nothing. When a batch has used `g0/0` and a checkpoint covers the batch, `g0/0` is `retired`,
        and `apply` names `g0` among the groups that ended.
    """

    def __init__(self) -> None:
        self.live: dict[str, LiveGroup] = {}
        self.notes: dict[str, Any] = {}
        self._ended = EndedGroups()
        self._counts: dict[str, int] = dict.fromkeys(STATES, 0)
        self._causes: dict[str, int] = {}
        self._num_reserved = 0
        self._num_reissued = 0
        self._num_adopted = 0
        self._proven = dict.fromkeys(LIVE_STATES, 0)
        """The counts when they were last proven."""
        self._unproven: dict[str, _States] = {}
        """By id, the groups touched since then, with their states at that time; without states: they were not live."""

    def apply(self, record: AnyRecord) -> Applied:
        """Take in one record.

        Raises:
            LedgerError: a transition that cannot happen. The ledger is unchanged.
        """
        match record:
            case GroupReserved(reservation, owner):
                return self._reserve(reservation.group_id, reservation.group_size, reservation, owner)
            case GroupReissued(group_id, owner):
                if (group := self.live.get(group_id)) and group.is_under_way:
                    self._keep(group_id, msgspec.structs.replace(group, owner=owner))
                    self._num_reissued += 1
                return Applied()
            case GroupReturned(group_id, cause, is_dropped):
                end = TrajectoryStatus.DROPPED if is_dropped else TrajectoryStatus.FAILED
                return self._return(group_id, cause, end)
            case StatesMoved(states):
                return self._move(states)
            case Noted(key, value):
                self.notes[key] = value
                return Applied()
            case LedgerSnapshot():
                self._restore(record)
                return Applied()
            case SnapshotPart(live, ended):
                self._restore_groups(live, ended)
                return Applied()

    def check_record(self, record: AnyRecord) -> None:
        """Whether `apply` would take this record; changes nothing.

        Raises:
            LedgerError: `apply` would refuse the record.
        """
        if isinstance(record, StatesMoved):
            try:
                for moved in record.states:
                    self._check_move(moved)
            except IdError as error:
                raise LedgerError(str(error)) from error

    def counts(self) -> dict[str, int]:
        """`reserved`, each state, and flows: `reissued`, and `adopted` (known to replay but not to the journal)."""
        return {
            "reserved": self._num_reserved,
            **{str(state): number for state, number in self._counts.items()},
            "reissued": self._num_reissued,
            "adopted": self._num_adopted,
        }

    def causes(self) -> dict[str, int]:
        """The number of ended trajectories, by `state(cause)`."""
        return dict(self._causes)

    def check(self) -> None:
        """Prove, by counting again, that the counts equal the trajectories' states.

        Raises:
            LedgerError: they differ.
        """
        recount = dict.fromkeys(LIVE_STATES, 0)
        for group in self.live.values():
            _count(recount, group.states, 1)
        self._prove(recount)

    def check_changes(self) -> int:
        """Prove the same from the last proof on: count only the groups touched since, as they were and as they are.

        Returns how many these were: the cost of the proof, however many groups are live.

        Raises:
            LedgerError: the counts differ from the trajectories' states.
        """
        num_touched = len(self._unproven)
        recount = dict(self._proven)
        for group_id, before in self._unproven.items():
            _count(recount, before, -1)
            if group := self.live.get(group_id):
                _count(recount, group.states, 1)
        self._prove(recount)
        return num_touched

    def state_of(self, trajectory_id: str) -> TrajectoryStatus | None:
        """The present state of a trajectory; None if it is unknown, or ended so long ago that only the counts include
        it.
        """
        group_id, index = split_id(trajectory_id)
        states = group.states if (group := self.live.get(group_id)) else self._ended.states.get(group_id, ())
        return states[index] if index < len(states) else None

    def snapshot(self) -> LedgerSnapshot:
        """The present ledger as one record; `snapshot_in_parts` is for ledgers of any size."""
        groups = _snapshot_part(list(self.live.items()), list(self._ended.states.items()))
        return msgspec.structs.replace(self._account(), live=groups.live, ended=groups.ended)

    def snapshot_in_parts(self) -> Iterator[LedgerSnapshot | SnapshotPart]:
        """The present ledger as records of moderate size. What is applied while they are drawn is not in them.

        They may be drawn on another thread: the only work that this call does is two shallow copies.
        """
        live, ended = list(self.live.items()), list(self._ended.states.items())
        starts = range(0, max(len(live), len(ended)), MAX_GROUPS_PER_PART)
        parts = (
            _snapshot_part(live[start : start + MAX_GROUPS_PER_PART], ended[start : start + MAX_GROUPS_PER_PART])
            for start in starts
        )
        return chain([self._account(num_parts=len(starts))], parts)

    def _account(self, num_parts: int = 0) -> LedgerSnapshot:
        """The present ledger without its groups, which follow in so many parts."""
        return LedgerSnapshot(
            counts={str(state): number for state, number in self._counts.items()},
            causes=dict(self._causes),
            live={},
            ended={},
            notes=dict(self.notes),
            num_reserved=self._num_reserved,
            num_reissued=self._num_reissued,
            num_adopted=self._num_adopted,
            num_parts=num_parts,
            failed=dict(self._ended.causes),
            forgotten=self._ended.forgotten,
        )

    def _prove(self, recount: dict[TrajectoryStatus, int]) -> None:
        total = sum(self._counts.values())
        if total != self._num_reserved:
            raise LedgerError(f"{self._num_reserved} trajectories were reserved, but the states add up to {total}")
        for state, number in recount.items():
            if number != self._counts[state]:
                raise LedgerError(f"{self._counts[state]} trajectories counted {state}, but {number} are")
        self._proven = recount
        self._unproven.clear()

    # -- transitions

    def _keep(self, group_id: str, group: LiveGroup) -> None:
        self._touch(group_id)
        self.live[group_id] = group

    def _touch(self, group_id: str) -> None:
        """Remember, for the next proof, the states of a live group that is about to change."""
        if group_id not in self._unproven:
            before = self.live.get(group_id)
            self._unproven[group_id] = before.states if before else ()

    def _reserve(self, group_id: str, group_size: int, reservation: Reservation | None, owner: str) -> Applied:
        if group_id in self.live or group_id in self._ended:
            return Applied()
        self._keep(group_id, LiveGroup(reservation, owner, (TrajectoryStatus.GENERATING,) * group_size))
        self._num_reserved += group_size
        self._counts[TrajectoryStatus.GENERATING] += group_size
        state = TrajectoryStatus.GENERATING
        return Applied(tuple(TrajectoryState(trajectory_id_for(group_id, k), state) for k in range(group_size)))

    def _return(self, group_id: str, cause: str, end: TrajectoryStatus) -> Applied:
        group = self.live.get(group_id)
        if group is None:
            return Applied()
        return self._move(
            tuple(
                TrajectoryState(trajectory_id_for(group_id, index), end, cause)
                for index, state in enumerate(group.states)
                if state in UNDER_WAY_STATES
            )
        )

    def _move(self, states: tuple[TrajectoryState, ...]) -> Applied:
        self.check_record(StatesMoved(states))
        done = tuple(moved for moved in states if self._move_one(moved))
        touched = dict.fromkeys(split_id(moved.trajectory_id)[0] for moved in done)
        return Applied(done, tuple(group_id for group_id in touched if self._close_if_ended(group_id)))

    def _check_move(self, moved: TrajectoryState) -> None:
        if moved.state not in STATES:
            raise LedgerError(f"trajectory {moved.trajectory_id}: there is no state {moved.state!r}")
        before = self.state_of(moved.trajectory_id)
        if before in END_STATES and before not in (TrajectoryStatus.FAILED, moved.state) and moved.state in END_STATES:
            raise LedgerError(f"trajectory {moved.trajectory_id}: {before} cannot become {moved.state}")
        if moved.state == TrajectoryStatus.RETIRED and before in UNDER_WAY_STATES:
            raise LedgerError(f"trajectory {moved.trajectory_id}: {before} cannot become retired")

    def _move_one(self, moved: TrajectoryState) -> bool:
        group_id, index = split_id(moved.trajectory_id)
        self._make_room(group_id, index, moved.state)
        group = self.live.get(group_id)
        before = group.states[index] if group and index < len(group.states) else self.state_of(moved.trajectory_id)
        if before is None or not _advances(before, moved.state):
            return False
        if group is None:  # counted as failed, but it arrived after all: replay's store is right
            group = LiveGroup(None, "", self._ended.states.pop(group_id))
        states = (*group.states[:index], moved.state, *group.states[index + 1 :])
        self._keep(group_id, msgspec.structs.replace(group, states=states))
        self._counts[before] -= 1
        self._counts[moved.state] += 1
        if before == TrajectoryStatus.FAILED:
            self._count_cause(before, self._ended.causes.pop(moved.trajectory_id, ""), -1)
        if moved.state == TrajectoryStatus.FAILED:
            self._ended.causes[moved.trajectory_id] = moved.cause
        if moved.state in END_STATES:
            self._count_cause(moved.state, moved.cause, 1)
        return True

    def _count_cause(self, state: TrajectoryStatus, cause: str, by: int) -> None:
        label = f"{state}({cause})" if cause else str(state)
        self._causes[label] = self._causes.get(label, 0) + by
        if self._causes[label] <= 0:
            del self._causes[label]

    def _make_room(self, group_id: str, index: int, state: TrajectoryStatus) -> None:
        """Adopt a trajectory that replay holds but the journal does not know."""
        if group_id in self._ended or state not in HELD_STATES:
            return
        group = self.live.get(group_id) or LiveGroup(None, "", ())
        missing = index + 1 - len(group.states)
        if missing > 0:
            states = group.states + (TrajectoryStatus.GENERATING,) * missing
            self._keep(group_id, msgspec.structs.replace(group, states=states))
            self._num_reserved += missing
            self._num_adopted += missing
            self._counts[TrajectoryStatus.GENERATING] += missing

    def _close_if_ended(self, group_id: str) -> bool:
        group = self.live[group_id]
        if not all(state in END_STATES for state in group.states):
            return False
        self._touch(group_id)
        del self.live[group_id]
        self._ended.add(group_id, group.states)
        return True

    def _restore(self, snapshot: LedgerSnapshot) -> None:
        self.live, self._ended = {}, EndedGroups(snapshot.failed, snapshot.forgotten)
        self._proven, self._unproven = dict.fromkeys(LIVE_STATES, 0), {}
        self._restore_groups(snapshot.live, snapshot.ended)
        self.notes = dict(snapshot.notes)
        self._counts = dict.fromkeys(STATES, 0) | snapshot.counts
        self._causes = dict(snapshot.causes)
        self._num_reserved = snapshot.num_reserved
        self._num_reissued = snapshot.num_reissued
        self._num_adopted = snapshot.num_adopted

    def _restore_groups(
        self,
        live: Mapping[str, tuple[Reservation | None, str, tuple[TrajectoryStatus, ...]]],
        ended: Mapping[str, tuple[TrajectoryStatus, ...]],
    ) -> None:
        for group_id, (reservation, owner, states) in live.items():
            self._keep(group_id, LiveGroup(reservation, owner, states))
        self._ended.states.update(ended)


def _snapshot_part(
    live: list[tuple[str, LiveGroup]], ended: list[tuple[str, tuple[TrajectoryStatus, ...]]]
) -> SnapshotPart:
    return SnapshotPart({g: (group.reservation, group.owner, group.states) for g, group in live}, dict(ended))


def _count(counts: dict[TrajectoryStatus, int], states: _States, by: int) -> None:
    for state in states:
        if state in counts:
            counts[state] += by


def _advances(before: TrajectoryStatus, after: TrajectoryStatus) -> bool:
    """Whether `after` follows `before`; if not, the message is a repetition or late."""
    if before == TrajectoryStatus.FAILED:  # counted as failed, but replay holds it
        return after in HELD_STATES or (after in END_STATES and after != TrajectoryStatus.FAILED)
    if before in END_STATES:
        return False
    return after in END_STATES or _RANK[after] > _RANK[before]

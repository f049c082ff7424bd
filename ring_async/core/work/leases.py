"""The leases of reservations: owners, expiry, returns, and the queue of groups to issue again.

Owns: open reservations and the queue of those to issue again. Events in, effects out; time is an argument. Does not own
trajectory states (`ledger`) nor how many groups may be open (`admission`).
Invariants: a group is open at most once, with one owner; every open lease has an end; a group that came back is
issued before any new prompt, so that its prompt is neither lost nor postponed for being long. An event costs as much as
the groups that it concerns, however many are open.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from ring_async.types import Reservation

_MIN_ENDS = 1_024
"""Entries that the heap of ends may hold beside those of open groups before it is made anew."""


@dataclass(slots=True)
class OpenReservation:
    """A reservation under way."""

    reservation: Reservation
    owner: str
    lease_end_s: float
    attempt: int
    """1 for the first issue."""
    is_renewed: bool = False
    """Whether its owner has renewed the lease."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A group that came back from `owner`; `is_failed`: it was tried too often and is given up; `detail` says more
    about the cause, for people.
    """

    reservation: Reservation
    owner: str
    cause: str
    is_failed: bool
    detail: str = ""


@dataclass(slots=True)
class LeaseTable:
    """Open reservations of one run.

        leases.issue(reservation, actor_id, now_s=0.0)     # its lease ends at reservation.lease_s
        leases.owner_lost(actor_id, "owner_lost")          # [Returned(reservation, …, is_failed=False)]
        leases.next_again()                                # (reservation, 2): its second attempt

    Args:
        max_attempts: issues of one group before it is given up as failed.
    """

    max_attempts: int = 3
    _open: dict[str, OpenReservation] = field(default_factory=dict)
    _again: OrderedDict[str, tuple[Reservation, int]] = field(default_factory=OrderedDict)
    """Groups to issue again, by id, in order, each with the number of its next attempt."""
    _held_by: dict[str, dict[str, OpenReservation]] = field(default_factory=dict)
    """The open groups of each owner, by id."""
    _ends: list[tuple[float, str]] = field(default_factory=list)
    """A heap with an entry for each open group: a time at which its lease may end, and its id. A lease that was
    renewed meanwhile ends later, and one that is over has left its entry behind; `expire` finds out. Most entries are
    of open groups: the heap is made anew before it is otherwise."""

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """The number of groups to issue again before any new prompt."""
        return len(self._again)

    def num_held(self, owner: str) -> int:
        """The number of open groups of one owner."""
        return len(self._held_by.get(owner, ()))

    def is_open(self, group_id: str) -> bool:
        return group_id in self._open

    def next_again(self) -> tuple[Reservation, int] | None:
        """Take the first group to issue again, with the number of its next attempt."""
        return self._again.popitem(last=False)[1] if self._again else None

    def issue(self, reservation: Reservation, owner: str, now_s: float, attempt: int = 1) -> None:
        """Open a lease."""
        group_id, lease_end_s = reservation.group_id, now_s + reservation.lease_s
        held = OpenReservation(reservation, owner, lease_end_s, attempt)
        self._open[group_id] = held
        self._held_by.setdefault(owner, {})[group_id] = held
        if len(self._ends) >= _MIN_ENDS + 2 * len(self._open):  # leases that were withdrawn leave entries behind
            self._ends = [(one.lease_end_s, key) for key, one in self._open.items()]
            heapq.heapify(self._ends)
        else:
            heapq.heappush(self._ends, (lease_end_s, group_id))

    def withdraw(self, reservations: Sequence[Reservation]) -> None:
        """Undo `issue` for reservations of which nobody has heard: they are issued first by the next call, in order."""
        for reservation in reversed(reservations):
            held = self._close(self._open[reservation.group_id])
            self._again[reservation.group_id] = (held.reservation, held.attempt)
            self._again.move_to_end(reservation.group_id, last=False)

    def renew(self, owner: str, group_ids: Iterable[str], now_s: float) -> tuple[str, ...]:
        """Extend leases; returns the groups that `owner` does not hold, or no longer holds."""
        lost = []
        for group_id in group_ids:
            held = self._open.get(group_id)
            if held is None or held.owner != owner:
                lost.append(group_id)
            else:
                held.lease_end_s = now_s + held.reservation.lease_s
                held.is_renewed = True
        return tuple(lost)

    def complete(self, group_id: str) -> OpenReservation | None:
        """End the lease of a group that is durable in replay or ended otherwise; None if the group was not open.

        A group that waits to be issued again is completed, too: its first owner's copy arrived after all.
        """
        if (waiting := self._again.pop(group_id, None)) is not None:
            return OpenReservation(waiting[0], "", 0.0, waiting[1])
        return self._close(held) if (held := self._open.get(group_id)) is not None else None

    def give_back(
        self, group_ids: Iterable[str], cause: str, *, owner: str | None = None, detail: str = ""
    ) -> list[Returned]:
        """Take back unfinished groups; with `owner`, only those that this owner still holds."""
        returned = []
        for group_id in group_ids:
            held = self._open.get(group_id)
            if held is not None and owner in (None, held.owner):
                returned.append(self._return(held, cause, detail))
        return returned

    def keep_held(self, owner: str, group_ids: Collection[str], cause: str) -> list[Returned]:
        """Take back the open groups of `owner` that are not among `group_ids`, those it says it holds."""
        missing = [held for group_id, held in self._held_by.get(owner, {}).items() if group_id not in group_ids]
        return [self._return(held, cause) for held in missing]

    def owners(self) -> set[str]:
        """The owners of all open groups."""
        return set(self._held_by)

    def owner_lost(self, owner: str, cause: str) -> list[Returned]:
        """Take back all groups of an owner that died.

        A group that kills its owner does so soon. One whose lease was renewed before is not suspected, and keeps its
        number of attempts; owners that die again and again end the run by their restarts.
        """
        held = list(self._held_by.get(owner, {}).values())
        return [self._return(one, cause, is_suspect=not one.is_renewed) for one in held]

    def drop(self, group_id: str, owner: str) -> Reservation | None:
        """End the lease of a group that must not be issued again; None if this owner does not hold it."""
        held = self._open.get(group_id)
        if held is None or held.owner != owner:
            return None
        return self._close(held).reservation

    def expire(self, now_s: float) -> list[Returned]:
        """Take back groups whose leases ran out."""
        returned = []
        while self._ends and now_s > self._ends[0][0]:
            _, group_id = heapq.heappop(self._ends)
            if (held := self._open.get(group_id)) is None:
                continue
            if now_s > held.lease_end_s:
                returned.append(self._return(held, "lease_expired"))
            else:
                heapq.heappush(self._ends, (held.lease_end_s, group_id))
        return returned

    def postpone(self, by_s: float) -> None:
        """Extend every lease by a time in which renewals could not be read."""
        for held in self._open.values():
            held.lease_end_s += by_s

    def restore(self, open_before: Sequence[Reservation]) -> None:
        """Queue reservations that were open when the whole fleet ended, to be issued again in order."""
        self._again.update((reservation.group_id, (_reissued(reservation), 1)) for reservation in open_before)

    def _return(self, held: OpenReservation, cause: str, detail: str = "", *, is_suspect: bool = True) -> Returned:
        group_id = held.reservation.group_id
        self._close(held)
        is_failed = is_suspect and held.attempt >= self.max_attempts
        if not is_failed:
            self._again[group_id] = (_reissued(held.reservation), held.attempt + is_suspect)
        return Returned(held.reservation, held.owner, cause, is_failed, detail)

    def _close(self, held: OpenReservation) -> OpenReservation:
        group_id, of_owner = held.reservation.group_id, self._held_by[held.owner]
        del self._open[group_id], of_owner[group_id]
        if not of_owner:
            del self._held_by[held.owner]
        return held


def _reissued(reservation: Reservation) -> Reservation:
    return msgspec.structs.replace(reservation, is_reissued=True)

"""Groups that have ended, as far as a late message of them must be recognised.

Owns: the states of the newest ones, and of older ones only that they ended. Does not own counts (`ledger`).
Invariant: a group that ended is never taken for one that is not known, however long ago it ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from ring_async.core.ids import split_group_id, trajectory_id_for
from ring_async.core.work.index_runs import IndexRuns
from ring_async.trajectory_states import TrajectoryStatus

MAX_REMEMBERED_GROUPS = 65_536
"""Ended groups whose states are still known by id."""

States = tuple[TrajectoryStatus, ...]


class EndedGroups:
    """Ended groups of one run.

        ended.add("sums-00000007", states)
        "sums-00000007" in ended              # for ever; `ended.states` holds it among the newest alone

    Attributes:
        states: of the newest groups, by id.
        causes: why trajectories of these groups failed, by id: they count no more if the trajectory arrives after all.
    """

    def __init__(
        self, causes: Mapping[str, str] | None = None, forgotten: Mapping[str, Iterable[tuple[int, int]]] | None = None
    ) -> None:
        self.states: OrderedDict[str, States] = OrderedDict()
        self.causes = dict(causes or {})
        self._forgotten = {source: IndexRuns(pairs) for source, pairs in (forgotten or {}).items()}

    def __contains__(self, group_id: str) -> bool:
        if group_id in self.states:
            return True
        place = split_group_id(group_id)
        return place is not None and place[0] in self._forgotten and place[1] in self._forgotten[place[0]]

    @property
    def forgotten(self) -> dict[str, list[tuple[int, int]]]:
        """Indices of the groups of each source of which only the end is known, as runs."""
        return {source: runs.pairs for source, runs in self._forgotten.items()}

    def add(self, group_id: str, states: States) -> None:
        """Add a group that ended; the oldest one may be forgotten for it."""
        self.states[group_id] = states
        while len(self.states) > MAX_REMEMBERED_GROUPS:
            oldest, old_states = self.states.popitem(last=False)
            for index in range(len(old_states)):
                self.causes.pop(trajectory_id_for(oldest, index), None)
            if (place := split_group_id(oldest)) is not None:
                self._forgotten.setdefault(place[0], IndexRuns()).add(place[1])

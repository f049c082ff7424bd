"""The past of a replay store: plans and ended groups that nobody needs any more become a summary.

Owns: folding, a portion at a time, and the summary in the store. Does not own how much may be folded
(`core.replay.history`), nor the proof over plans (`core.replay.plan_log`).
Invariants: what is deleted was proven first, and the summary carries the proof on; summary and deletions are one
commit. Disk per run is bounded: LMDB uses the freed pages again.
"""

from __future__ import annotations

import logging
import math
from itertools import takewhile
from typing import Final

import msgspec

from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.history import MAX_HISTORY_SHARE, last_foldable
from ring_async.core.replay.plan_log import FoldedPlans, PlanLog
from ring_async.errors import StorageError
from ring_async.storage.replay_store import ReplayStore, Writes
from ring_async.storage.store_reader import INTEGER, StoreReader

log = logging.getLogger(__name__)

PORTION_PLANS: Final = 8
"""Plans folded in one commit, so that groups which arrive meanwhile do not wait long."""

_folded_decoder = msgspec.msgpack.Decoder(FoldedPlans | None)


class History:
    """Folds the past of one store.

        history = History(store)
        history.fold(buffer)     # after each commit: nothing, or one portion

    Args:
        store: it holds the plans, if its shard is the planner, and the shard's ended groups.
    """

    def __init__(self, store: ReplayStore) -> None:
        self.followed = math.inf
        """The newest plan that all other shards have followed; the planner keeps it up to date."""
        self._store = store
        with store.read() as reader:
            self._until = folded_until(reader)

    def fold(self, buffer: ReplayBuffer) -> None:
        """Fold one portion if one is due. A disk without room only puts it off."""
        try:
            self._fold(buffer)
        except StorageError as error:
            log.warning("%s: old plans stay for now: %s", self._store.path, error)

    def _fold(self, buffer: ReplayBuffer) -> None:
        used_bytes = self._store.bytes_of("plans", "ended", "departed")
        until = last_foldable(
            last_plan=buffer.last_plan,
            covered=buffer.covered,
            followed=self.followed,
            max_staleness=buffer.rules.max_staleness,
            is_crowded=used_bytes > MAX_HISTORY_SHARE * self._store.map_size_bytes,
        )
        until = min(until, self._until + PORTION_PLANS)
        if until <= self._until:
            return
        with self._store.read() as reader:
            plans = proven_plans(reader)
            entries = list(takewhile(lambda entry: entry.plan.plan_number <= until, reader.plans_after(self._until)))
            plans.read(entries)
            forgotten = list(reader.departed_until(until))
            num_forgotten = num_groups_forgotten(reader) + len(forgotten)
        meta: dict[str, object] = {"folded_until": until, "num_forgotten": num_forgotten}
        if plans.num_plans:
            meta["folded"] = plans.folded()
        folded = [entry.plan.plan_number for entry in entries]
        self._store.commit(Writes(meta=meta, forgotten=forgotten, folded=folded))
        self._until = until


def proven_plans(reader: StoreReader) -> PlanLog:
    """The log of a store's plans as far as they are folded: whatever is read into it goes on from there."""
    return PlanLog(reader.meta("folded", _folded_decoder, None))


def folded_until(reader: StoreReader) -> int:
    """The newest plan up to which a store has folded its past."""
    return reader.meta("folded_until", INTEGER, 0)


def num_groups_forgotten(reader: StoreReader) -> int:
    """The number of ended groups of which only their count is left."""
    return reader.meta("num_forgotten", INTEGER, 0)

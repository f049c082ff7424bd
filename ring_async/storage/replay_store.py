"""Replay's durable store: groups, their progress, batch plans, and the reports that the controller has not
acknowledged.

Owns: one LMDB environment and its tables. Does not own any decision (`core.replay`), nor unfinished responses
(`partial_store`).
Invariants: one `commit` is one synced transaction, all of it or nothing; a group is read only if its checksum holds;
readers see a group's arrays without a copy, inside `read()` only, because an open read transaction keeps pages alive.

    groups    group_id    → checked value: GroupRecord · arrays    written once
    progress  group_id    → [Progress × K]                         rewritten as batches use the group
    ended     group_id    → [Progress × K]                         what became of a group whose payload is gone
    departed  plan_number → group_id …                             ended while that plan was the last; not sealed
    plans     plan_number → PlanEntry                              of the last plans, for the audit and for learners
    unheard   number      → [TrajectoryState …]                    until the controller acknowledges
    meta      name        → value

All values but those of `groups` and `departed` are sealed (`sealed`). `ended` and `plans` do not grow for ever:
`store_history` folds what is old into a summary.

Rejected: `writemap`, where a full disk is a SIGBUS; long read transactions, under which the file grows without bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from ring_async.columns import Buffer
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.errors import ConfigError, StorageError
from ring_async.storage.checked_value import ValueScratch, num_bytes
from ring_async.storage.sealed import seal, unseal
from ring_async.storage.store_probe import check_store
from ring_async.storage.store_reader import INTEGER, StoreReader, number_key
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import GroupHeader

FORMAT: Final = 3
"""Format of everything below the shard's folder. An older store is refused: the version that began a run finishes it.
"""

_SEALED: Final = ("progress", "ended", "plans", "unheard", "meta")
_TABLES: Final = ("groups", "departed", *_SEALED)
_RESERVE_FRACTION: Final = 0.1
_RESERVE_BYTES: Final = 64 << 20
"""New groups are refused while less is free: plans and deletions need room too, and deletions are what makes room."""

_encode = msgspec.msgpack.Encoder().encode


class StoredGroup(msgspec.Struct, frozen=True):
    """A group to put: its record, first progress, and arrays in wire order (`Group.buffers`)."""

    record: GroupRecord
    progress: GroupProgress
    buffers: Sequence[Buffer]


@dataclass(slots=True)
class Writes:
    """The content of one commit. `released` groups lose their payload; their last progress is kept as `ended`.

    Attributes:
        at_plan: the last plan when these groups were released or ended.
        forgotten: groups that ended long ago, with the plan that was the last then: nothing is kept of them.
        folded: numbers of plans that are deleted; `meta` holds their summary.
    """

    puts: Sequence[StoredGroup] = ()
    progress: Mapping[str, GroupProgress] = field(default_factory=dict)
    ended: Mapping[str, GroupProgress] = field(default_factory=dict)
    released: Iterable[str] = ()
    plans: Sequence[PlanEntry] = ()
    unheard: Mapping[int, tuple[TrajectoryState, ...]] = field(default_factory=dict)
    heard: Iterable[int] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    at_plan: int = 0
    forgotten: Sequence[tuple[int, str]] = ()
    folded: Sequence[int] = ()


class ReplayStore:
    """One shard's store, in the folder `path`.

        store = ReplayStore(path, map_size_bytes=1 << 30)
        store.commit(Writes(puts=[StoredGroup(record, progress, group.buffers)]))     # durable when it returns
        store.commit(Writes(released=[group_id]))                                     # the payload is gone

    Args:
        map_size_bytes: most the store may hold on disk.
        is_readonly: for the audit: nothing is made or changed.

    Raises:
        StorageError: the folder cannot be opened, or holds another format.
    """

    def __init__(self, path: Path, map_size_bytes: int, *, is_readonly: bool = False) -> None:
        self.path = path
        self.map_size_bytes = map_size_bytes
        self._is_readonly = is_readonly
        self._environment: lmdb.Environment | None = None
        self._scratch = ValueScratch()
        self._tables: dict[str, Any] = {}
        self._headers: dict[str, GroupHeader] = {}
        """Headers of groups that this process stored: the buffer holds them anyway, and decoding one costs as much as
        its checksum.
        """
        self.check(is_thorough=is_readonly)
        self._open()
        if not is_readonly:
            self.commit(Writes(meta={"format": FORMAT}))

    @property
    def used_bytes(self) -> int:
        """Bytes of pages in use; the file itself never shrinks, freed pages are used again."""
        return self.bytes_of(*self._tables)

    def bytes_of(self, *tables: str) -> int:
        """Bytes of pages that these tables use."""
        environment = self._opened()
        with environment.begin() as transaction:
            stats = [transaction.stat(self._tables[table]) for table in tables]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return int(pages * environment.stat()["psize"])

    def commit(self, writes: Writes) -> None:
        """Make `writes` durable, in one synced transaction.

        Raises:
            StorageError: nothing was changed; names the path and the need. May succeed later, when there is space.
        """
        needed = sum([num_bytes(part) for stored in writes.puts for part in stored.buffers])
        if writes.puts:
            self._check_room(needed)
        try:
            with self._opened().begin(write=True) as transaction:
                self._write(transaction, writes)
            self._headers |= {stored.record.header.group_id: stored.record.header for stored in writes.puts}
            for group_id in writes.released:
                self._headers.pop(group_id, None)
        except lmdb.MapFullError as error:
            raise self._failed(error, needed) from error
        except lmdb.Error as error:
            self.close()  # after an I/O error the environment must be opened anew
            raise self._failed(error, needed) from error

    @contextlib.contextmanager
    def read(self) -> Iterator[StoreReader]:
        """Open a consistent view of the store. Keep the block short: an open view keeps old pages alive.

        Raises:
            StorageError: the store cannot be opened or read.
        """
        try:
            environment = self._opened()
            with environment.begin(buffers=True) as transaction:
                yield StoreReader(self.path, transaction, self._tables, self._headers)
        except lmdb.Error as error:
            raise StorageError(f"{self.path}: the replay store cannot be read: {error}") from error

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def check(self, *, is_thorough: bool = False) -> None:
        """Look, from another process, whether the store can be read at all; see `store_probe`.

        Raises:
            StorageError: it is damaged.
        """
        data = self.path / "data.mdb"
        if data.exists() and data.stat().st_size:
            check_store(self.path, sealed=_SEALED, others=("groups", "departed"), is_thorough=is_thorough)

    # -- parts

    def _opened(self) -> lmdb.Environment:
        if self._environment is None:
            self._open()
        assert self._environment is not None
        return self._environment

    def _open(self) -> None:
        try:
            if not self._is_readonly:
                self.path.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(self.path),
                map_size=self.map_size_bytes,
                max_dbs=len(_TABLES),
                readonly=self._is_readonly,
                create=not self._is_readonly,
                metasync=True,
                sync=True,
                writemap=False,
            )
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"{self.path}: the replay store cannot be opened: {error}") from error
        try:
            self._tables["meta"] = environment.open_db(b"meta", create=not self._is_readonly)
            self._check_format(environment)
            for table in _TABLES:
                self._tables[table] = environment.open_db(
                    table.encode(), create=not self._is_readonly, dupsort=table == "departed"
                )
        except lmdb.Error as error:
            environment.close()
            raise self._failed(error, 0) from error
        except StorageError:
            environment.close()
            raise
        self._environment = environment

    def _check_format(self, environment: lmdb.Environment) -> None:
        with environment.begin() as transaction:
            value = transaction.get(b"format", db=self._tables["meta"])
        found = FORMAT
        if value is not None:  # earlier formats did not seal it
            found = INTEGER.decode(unseal(b"format", value) or value)
        if found != FORMAT:
            raise StorageError(
                f"{self.path}: a replay store of format {found}, this version reads {FORMAT}. Go on with "
                "this run under the version of ring-async that began it, or start a new one under another run.name"
            )

    def _write(self, transaction: lmdb.Transaction, writes: Writes) -> None:
        tables = self._tables

        def put(table: str, key: bytes, value: object) -> None:
            transaction.put(key, seal(key, _encode(value)), db=tables[table])

        for stored in writes.puts:
            key = stored.record.header.group_id.encode()
            transaction.put(key, self._scratch.encode(_encode(stored.record), stored.buffers), db=tables["groups"])
            put("progress", key, stored.progress)
        released = dict.fromkeys(writes.released)
        for group_id, progress in writes.progress.items():
            put("ended" if group_id in released else "progress", group_id.encode(), progress)
        for group_id in released:
            key = group_id.encode()
            last = transaction.pop(key, db=tables["progress"])
            assert last is not None, f"group {group_id} has no progress"
            if group_id not in writes.progress:
                transaction.put(key, last, db=tables["ended"])
            transaction.delete(key, db=tables["groups"])
        for group_id, progress in writes.ended.items():
            put("ended", group_id.encode(), progress)
        for group_id in (*released, *writes.ended):
            transaction.put(number_key(writes.at_plan), group_id.encode(), db=tables["departed"])
        for entry in writes.plans:
            put("plans", number_key(entry.plan.plan_number), entry)
        for number, states in writes.unheard.items():
            put("unheard", number_key(number), states)
        for number in writes.heard:
            transaction.delete(number_key(number), db=tables["unheard"])
        for name, value in writes.meta.items():
            put("meta", name.encode(), value)
        self._forget(transaction, writes)

    def _forget(self, transaction: lmdb.Transaction, writes: Writes) -> None:
        for number, group_id in writes.forgotten:
            transaction.delete(group_id.encode(), db=self._tables["ended"])
            transaction.delete(number_key(number), group_id.encode(), db=self._tables["departed"])
        for number in writes.folded:
            transaction.delete(number_key(number), db=self._tables["plans"])

    def _check_room(self, needed: int) -> None:
        reserve = min(int(self.map_size_bytes * _RESERVE_FRACTION), _RESERVE_BYTES)
        free = self.map_size_bytes - self.used_bytes - reserve
        if needed > free:
            raise StorageError(
                f"{self.path}: the replay store is full: {needed:,} bytes needed, {max(0, free):,} free of "
                f"replay.map_size_bytes {self.map_size_bytes:,}; no group is admitted until batches are covered by a "
                "checkpoint, nothing acknowledged is lost"
            )

    def _failed(self, error: lmdb.Error, needed: int) -> StorageError:
        return StorageError(
            f"{self.path}: the replay store cannot be written: {error}; {needed:,} bytes needed. No group is admitted "
            "until there is space on a writable disk; nothing acknowledged is lost"
        )


def check_num_shards(store: ReplayStore, num_shards: int) -> None:
    """Refuse another number of shards than the run began with: a hash modulo that number assigns groups to shards."""
    with store.read() as reader:
        found = reader.meta("num_shards", INTEGER, 0)
    if found and found != num_shards:
        raise ConfigError(
            f"replay.num: {num_shards}, but {store.path} is one of {found} shards; a run keeps its number"
        )
    if not found:
        store.commit(Writes(meta={"num_shards": num_shards}))

"""Replay's durable store: groups, their progress, batch plans, and the reports that the controller has not
acknowledged.

Owns: one LMDB environment and its tables. Does not own any decision (`core.replay`), nor unfinished responses
(`partial_store`).
Invariants: one `commit` is one synced transaction, all of it or nothing; a group is read only if its checksum holds;
readers see a group's arrays without a copy, inside `read()` only, because an open read transaction keeps pages alive.

    groups    group_id    → checked value: GroupRecord · arrays    written once
    progress  group_id    → [Progress × K]                         rewritten as batches use the group
    ended     group_id    → [Progress × K]                         what became of a group whose payload is gone
    plans     plan_number → PlanEntry                              all of the run, for the audit
    unheard   number      → [TrajectoryState …]                    until the controller acknowledges
    meta      name        → value

Rejected: `writemap`, where a full disk is a SIGBUS; long read transactions, under which the file grows without bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec

from ring_async.columns import Buffer
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.errors import StorageError
from ring_async.storage.checked_value import (
    ValueScratch,
    first_array,
    is_whole,
    num_bytes,
    read_array,
    read_header,
    read_token_columns,
)
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import Group, GroupHeader

FORMAT: Final = 2
"""Format of everything below the shard's folder. An older store is refused: the version that began a run finishes it.
"""

_TABLES: Final = ("groups", "progress", "ended", "plans", "unheard", "meta")
_RESERVE_FRACTION: Final = 0.1
_RESERVE_BYTES: Final = 64 << 20
"""New groups are refused while less is free: plans and deletions need room too, and deletions are what makes room."""

_encode = msgspec.msgpack.Encoder().encode
_record_decoder = msgspec.msgpack.Decoder(GroupRecord)
_progress_decoder = msgspec.msgpack.Decoder(GroupProgress)
_states_decoder = msgspec.msgpack.Decoder(tuple[TrajectoryState, ...])
_plan_decoder = msgspec.msgpack.Decoder(PlanEntry)
INTEGER: Final = msgspec.msgpack.Decoder(int)
"""Decodes whole numbers, for `StoreReader.meta`."""
T = TypeVar("T")


class StoredGroup(msgspec.Struct, frozen=True):
    """A group to put: its record, first progress, and arrays in wire order (`Group.buffers`)."""

    record: GroupRecord
    progress: GroupProgress
    buffers: Sequence[Buffer]


@dataclass(slots=True)
class Writes:
    """The content of one commit. `released` groups lose their payload; their last progress is kept as `ended`."""

    puts: Sequence[StoredGroup] = ()
    progress: Mapping[str, GroupProgress] = field(default_factory=dict)
    ended: Mapping[str, GroupProgress] = field(default_factory=dict)
    released: Iterable[str] = ()
    plans: Sequence[PlanEntry] = ()
    unheard: Mapping[int, tuple[TrajectoryState, ...]] = field(default_factory=dict)
    heard: Iterable[int] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


class StoreReader:
    """A consistent view of the store, from `ReplayStore.read`. Returned arrays are valid until the view is closed.

    Example:
        `with store.read() as reader: group = reader.group("math-00000017").copy()`: the copy outlives the view.
    """

    def __init__(
        self, path: Path, transaction: lmdb.Transaction, tables: Mapping[str, Any], headers: Mapping[str, GroupHeader]
    ) -> None:
        self._path = path
        self._transaction = transaction
        self._tables = tables
        self._headers = headers

    def group(self, group_id: str) -> Group | None:
        """A group, its arrays uncopied; None if it is not stored.

        Raises:
            StorageError: its checksum does not hold.
        """
        value = self._transaction.get(group_id.encode(), db=self._tables["groups"])
        if value is None:
            return None
        if not is_whole(value):
            raise StorageError(f"{self._path}: group {group_id} is damaged on disk: its checksum does not hold")
        header = self._headers.get(group_id) or _record_decoder.decode(read_header(value)).header
        prompt_ids, position = read_array(value, "int32", header.num_prompt_tokens, first_array(value))
        num_tokens = header.num_response_tokens
        return Group(header, prompt_ids, *read_token_columns(value, header.columns, num_tokens, position))

    def records(self) -> Iterator[tuple[GroupRecord, GroupProgress]]:
        """All stored groups without their arrays, in the order of their ids."""
        with self._transaction.cursor(self._tables["groups"]) as cursor:
            for key, value in cursor:
                progress = self._transaction.get(key, db=self._tables["progress"])
                assert progress is not None, f"group {bytes(key)!r} has no progress"
                yield _record_decoder.decode(read_header(value)), _progress_decoder.decode(progress)

    def group_ids(self) -> list[str]:
        with self._transaction.cursor(self._tables["groups"]) as cursor:
            return [bytes(key).decode() for key in cursor.iternext(values=False)]

    def ended(self, group_id: str) -> GroupProgress | None:
        """The last progress of a group whose payload was released; None if there is none."""
        value = self._transaction.get(group_id.encode(), db=self._tables["ended"])
        return None if value is None else _progress_decoder.decode(value)

    def all_ended(self) -> Iterator[tuple[str, GroupProgress]]:
        with self._transaction.cursor(self._tables["ended"]) as cursor:
            for key, value in cursor:
                yield bytes(key).decode(), _progress_decoder.decode(value)

    def plan(self, plan_number: int) -> PlanEntry | None:
        value = self._transaction.get(_number_key(plan_number), db=self._tables["plans"])
        return None if value is None else _plan_decoder.decode(value)

    def plans_after(self, plan_number: int) -> Iterator[PlanEntry]:
        """Plans with a greater number, in order."""
        with self._transaction.cursor(self._tables["plans"]) as cursor:
            if cursor.set_range(_number_key(plan_number + 1)):
                for _, value in cursor:
                    yield _plan_decoder.decode(value)

    def unheard(self) -> Iterator[tuple[int, tuple[TrajectoryState, ...]]]:
        """The reports that the controller has not acknowledged, oldest first."""
        with self._transaction.cursor(self._tables["unheard"]) as cursor:
            for key, value in cursor:
                yield int.from_bytes(bytes(key), "big"), _states_decoder.decode(value)

    def meta(self, name: str, decoder: msgspec.msgpack.Decoder[T], default: T) -> T:
        """The small value of this name, or None."""
        value = self._transaction.get(name.encode(), db=self._tables["meta"])
        return default if value is None else decoder.decode(value)


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
        self._open()
        if not is_readonly:
            self.commit(Writes(meta={"format": FORMAT}))

    @property
    def used_bytes(self) -> int:
        """Bytes of pages in use; the file itself never shrinks, freed pages are used again."""
        environment = self._opened()
        page_bytes = environment.stat()["psize"]
        with environment.begin() as transaction:
            pages = 0
            for table in self._tables.values():
                stat = transaction.stat(table)
                pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * page_bytes)

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
                self._tables[table] = environment.open_db(table.encode(), create=not self._is_readonly)
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
        found = FORMAT if value is None else INTEGER.decode(value)
        if found != FORMAT:
            raise StorageError(
                f"{self.path}: a replay store of format {found}, this version reads {FORMAT}. Go on with "
                "this run under the version of ring-async that began it, or start a new one under another run.name"
            )

    def _write(self, transaction: lmdb.Transaction, writes: Writes) -> None:
        tables = self._tables
        put, groups, progresses = transaction.put, tables["groups"], tables["progress"]
        for stored in writes.puts:
            key = stored.record.header.group_id.encode()
            put(key, self._scratch.encode(_encode(stored.record), stored.buffers), db=groups)
            put(key, _encode(stored.progress), db=progresses)
        released = dict.fromkeys(writes.released)
        for group_id, progress in writes.progress.items():
            table = "ended" if group_id in released else "progress"
            transaction.put(group_id.encode(), _encode(progress), db=tables[table])
        for group_id in released:
            key = group_id.encode()
            last = transaction.pop(key, db=tables["progress"])
            assert last is not None, f"group {group_id} has no progress"
            if group_id not in writes.progress:
                transaction.put(key, last, db=tables["ended"])
            transaction.delete(key, db=tables["groups"])
        for group_id, progress in writes.ended.items():
            transaction.put(group_id.encode(), _encode(progress), db=tables["ended"])
        for entry in writes.plans:
            transaction.put(_number_key(entry.plan.plan_number), _encode(entry), db=tables["plans"])
        for number, states in writes.unheard.items():
            transaction.put(_number_key(number), _encode(states), db=tables["unheard"])
        for number in writes.heard:
            transaction.delete(_number_key(number), db=tables["unheard"])
        for name, value in writes.meta.items():
            transaction.put(name.encode(), _encode(value), db=tables["meta"])

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


def _number_key(number: int) -> bytes:
    return number.to_bytes(8, "big")

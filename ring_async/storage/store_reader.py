"""A consistent view of replay's store.

Owns: reading and decoding what the store holds; no value is returned whose checksum does not hold. Does not own the
tables or writing them (`replay_store`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec

from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.errors import StorageError
from ring_async.storage.checked_value import (
    Value,
    first_array,
    is_header_whole,
    is_whole,
    read_array,
    read_header,
    read_token_columns,
)
from ring_async.storage.sealed import unseal
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import Group, GroupHeader

_record_decoder = msgspec.msgpack.Decoder(GroupRecord)
_progress_decoder = msgspec.msgpack.Decoder(GroupProgress)
_states_decoder = msgspec.msgpack.Decoder(tuple[TrajectoryState, ...])
_plan_decoder = msgspec.msgpack.Decoder(PlanEntry)
INTEGER: Final = msgspec.msgpack.Decoder(int)
"""Decodes whole numbers, for `StoreReader.meta`."""
T = TypeVar("T")


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
        header = self._headers.get(group_id) or self._record(group_id.encode(), value).header
        prompt_ids, position = read_array(value, "int32", header.num_prompt_tokens, first_array(value))
        num_tokens = header.num_response_tokens
        return Group(header, prompt_ids, *read_token_columns(value, header.columns, num_tokens, position))

    def records(self) -> Iterator[tuple[GroupRecord, GroupProgress]]:
        """All stored groups without their arrays, in the order of their ids.

        Raises:
            StorageError: one of them is damaged.
        """
        with self._transaction.cursor(self._tables["groups"]) as cursor:
            for raw_key, value in cursor:
                key = bytes(raw_key)
                progress = self._get("progress", key)
                if progress is None:
                    raise StorageError(f"{self._path}: group {key!r} has no progress: the store is damaged on disk")
                yield self._record(key, value), _progress_decoder.decode(progress)

    def group_ids(self) -> list[str]:
        with self._transaction.cursor(self._tables["groups"]) as cursor:
            return [bytes(key).decode() for key in cursor.iternext(values=False)]

    def ended(self, group_id: str) -> GroupProgress | None:
        """The last progress of a group whose payload was released; None if there is none."""
        value = self._get("ended", group_id.encode())
        return None if value is None else _progress_decoder.decode(value)

    def all_ended(self) -> Iterator[tuple[str, GroupProgress]]:
        for key, value in self._items("ended"):
            yield key.decode(), _progress_decoder.decode(value)

    def departed_until(self, plan_number: int) -> Iterator[tuple[int, str]]:
        """The groups that ended while the last plan was `plan_number` or an earlier one, with that plan's number."""
        with self._transaction.cursor(self._tables["departed"]) as cursor:
            for key, value in cursor:
                number = int.from_bytes(bytes(key), "big")
                if number > plan_number:
                    return
                yield number, bytes(value).decode()

    def plan(self, plan_number: int) -> PlanEntry | None:
        value = self._get("plans", number_key(plan_number))
        return None if value is None else _plan_decoder.decode(value)

    def plans_after(self, plan_number: int) -> Iterator[PlanEntry]:
        """Plans with a greater number, in order."""
        for _, value in self._items("plans", number_key(plan_number + 1)):
            yield _plan_decoder.decode(value)

    def unheard(self) -> Iterator[tuple[int, tuple[TrajectoryState, ...]]]:
        """The reports that the controller has not acknowledged, oldest first."""
        for key, value in self._items("unheard"):
            yield int.from_bytes(key, "big"), _states_decoder.decode(value)

    def meta(self, name: str, decoder: msgspec.msgpack.Decoder[T], default: T) -> T:
        """The small value of this name, or `default`."""
        value = self._get("meta", name.encode())
        return default if value is None else decoder.decode(value)

    # -- parts

    def _record(self, key: bytes, value: Value) -> GroupRecord:
        record = _record_decoder.decode(read_header(value)) if is_header_whole(value) else None
        if record is None or record.header.group_id.encode() != key:
            raise StorageError(f"{self._path}: group {key!r} is damaged on disk: its header's checksum does not hold")
        return record

    def _get(self, table: str, key: bytes) -> bytes | None:
        value = self._transaction.get(key, db=self._tables[table])
        return None if value is None else self._unsealed(table, key, value)

    def _items(self, table: str, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor(self._tables[table]) as cursor:
            if cursor.set_range(first):
                for key, value in cursor:
                    yield bytes(key), self._unsealed(table, bytes(key), value)

    def _unsealed(self, table: str, key: bytes, value: Value) -> bytes:
        data = unseal(key, value)
        if data is None:
            raise StorageError(f"{self._path}: {key!r} of table {table} is damaged on disk: its checksum does not hold")
        return data


def number_key(number: int) -> bytes:
    """The key of a number: keys sort as numbers do."""
    return number.to_bytes(8, "big")

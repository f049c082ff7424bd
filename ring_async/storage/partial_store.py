"""Unfinished responses on disk: pieces that rollouts hand over, until replay has the complete group.

Owns: an LMDB environment of its own below the shard's folder. Does not own what becomes of a piece
(`core.replay.partials`), nor complete groups (`replay_store`).
Invariants: what was appended survives the death of any process, not of the host: commits are not synced. Pieces of a
group that replay knows are never handed out. A damaged piece is logged and dropped, which costs time only, since the
response is generated again.

    pieces   group_id · index · start → checked value: PartialHeader · arrays
    writers  group_id → (writer, number of the last handover)

Rejected: a table of the shard's own environment. LMDB cannot leave a single transaction unsynced without risk to all
others: after a crash of the host the newest root could point at pages that never reached the disk, and acknowledged
groups with it. So pieces are deleted right after the commit of their group, and again when the store is opened.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from ring_async.core.ids import split_id
from ring_async.core.replay.partials import (
    AppendAnswer,
    AppendOutcome,
    PartialHeader,
    PartialResponse,
    decide_append,
    join_pieces,
)
from ring_async.errors import StorageError
from ring_async.storage.checked_value import Value, ValueScratch, first_array, is_whole, read_header, read_token_columns
from ring_async.storage.store_probe import check_store

log = logging.getLogger(__name__)

_HIGH_WATER: Final = 0.75
_LOW_WATER: Final = 0.5
"""Shares of the map: above the first, the groups least recently written to are deleted until the second is reached."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_encode = msgspec.msgpack.Encoder().encode
_header_decoder = msgspec.msgpack.Decoder(PartialHeader)
_writer_decoder = msgspec.msgpack.Decoder(tuple[str, int])


class PartialStore:
    """Unfinished responses of one shard. Nothing is opened or made before the first piece comes.

    Args:
        path: folder; a run whose rollouts hand nothing over never has it.
        map_size_bytes: most the store may hold on disk.
        known: returns which of the given groups replay holds, or held.

    Example:
        A rollout appends tokens 0 to 40 of `g7/0`, then 40 to 75, and dies. The group is reserved again for another
        one, which calls `take_over("g7", writer)` and is given one response of 75 tokens to go on with. A late piece of
        the first is answered `not_writer`. When replay commits `g7`, its pieces are deleted.
    """

    def __init__(self, path: Path, map_size_bytes: int, known: Callable[[Iterable[str]], set[str]]) -> None:
        self.path = path
        self._map_size_bytes = map_size_bytes
        self._known = known
        self._environment: lmdb.Environment | None = None
        self._pieces: Any = None
        self._writers: Any = None
        self._scratch = ValueScratch()
        self._next_handover = 1

    def append(self, partials: Sequence[PartialResponse], writer: str) -> list[AppendAnswer]:
        """Store pieces that `writer` hands over; returns one answer for each, in order.

        Raises:
            StorageError: no piece was stored.
        """
        known = self._known({split_id(partial.header.trajectory_id)[0] for partial in partials})
        try:
            environment = self._opened()
            self._make_room(environment)
            with environment.begin(write=True, buffers=True) as transaction:
                answers = [self._append_one(transaction, partial, writer, known) for partial in partials]
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._next_handover += 1
        return answers

    def take_over(self, group_id: str, writer: str) -> list[PartialResponse]:
        """Return the held part of each of a group's responses, joined; from now on only `writer` may append to them.

        Raises:
            StorageError: the store cannot be read or written.
        """
        if group_id in self._known([group_id]):
            return []
        try:
            with self._opened().begin(write=True, buffers=True) as transaction:
                responses, damaged = self._responses(transaction, group_id)
                for key in damaged:
                    transaction.delete(key, db=self._pieces)
                transaction.put(group_id.encode(), _encode((writer, self._next_handover)), db=self._writers)
        except lmdb.Error as error:
            raise self._failed(error) from error
        return responses

    def delete(self, group_ids: Iterable[str]) -> None:
        """Delete the pieces of complete groups. A failure is only logged: opening the store again deletes them."""
        doomed = list(group_ids)
        if not doomed or (self._environment is None and not self.path.exists()):
            return
        try:
            with self._opened().begin(write=True, buffers=True) as transaction:
                for group_id in doomed:
                    self._delete_one(transaction, group_id)
        except (lmdb.Error, StorageError) as error:
            log.warning("%s: unfinished responses of complete groups are left: %s", self.path, error)

    def group_ids(self) -> list[str]:
        """The ids of the groups with pieces here, in no order."""
        with self._opened().begin() as transaction, transaction.cursor(self._writers) as cursor:
            return [key.decode() for key in cursor.iternext(values=False)]

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    # -- parts

    def _opened(self) -> lmdb.Environment:
        if self._environment is not None:
            return self._environment
        try:
            self._forget_other_boots()
            self._forget_damaged()
            environment = lmdb.open(
                str(self.path), map_size=self._map_size_bytes, max_dbs=2, sync=False, metasync=False, writemap=False
            )
            self._pieces, self._writers = environment.open_db(b"pieces"), environment.open_db(b"writers")
        except (lmdb.Error, OSError) as error:
            raise self._failed(error) from error
        self._environment = environment
        with environment.begin() as transaction, transaction.cursor(self._writers) as cursor:
            numbers = [_writer_decoder.decode(value)[1] for _, value in cursor]
        self._next_handover = max(numbers, default=0) + 1
        self.delete(self._known(self.group_ids()))
        return environment

    def _forget_other_boots(self) -> None:
        """Delete the store if the host was restarted: unsynced content can neither be trusted nor safely be read."""
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        mark = self.path / "boot_id"
        if self.path.exists() and (not mark.exists() or mark.read_text() != boot):
            log.warning("%s: unfinished responses from before the host's restart are dropped", self.path)
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        mark.write_text(boot)

    def _forget_damaged(self) -> None:
        """Delete the store if it cannot be read: its responses are generated again."""
        if not (self.path / "data.mdb").exists():
            return
        try:
            check_store(self.path, sealed=(), others=("pieces", "writers"))
        except StorageError as error:
            log.warning("%s; unfinished responses are sampled again", error)
            shutil.rmtree(self.path)
            self._forget_other_boots()  # makes the folder anew

    def _append_one(
        self, transaction: lmdb.Transaction, partial: PartialResponse, writer: str, known: set[str]
    ) -> AppendAnswer:
        header = partial.header
        group_id, index = split_id(header.trajectory_id)
        value = transaction.get(group_id.encode(), db=self._writers)
        present_writer = None if value is None else _writer_decoder.decode(value)[0]
        num_held = self._num_held(transaction, group_id, index)
        outcome = decide_append(
            header, num_held=num_held, writer=writer, present_writer=present_writer, is_known=group_id in known
        )
        if outcome is AppendOutcome.APPENDED:
            piece = self._scratch.encode(_encode(header), partial.buffers, num_unaligned=3)
            transaction.put(_key(group_id, index, header.start), piece, db=self._pieces)
            transaction.put(group_id.encode(), _encode((writer, self._next_handover)), db=self._writers)
            num_held = header.end
        return AppendAnswer(header.trajectory_id, outcome, num_held)

    def _num_held(self, transaction: lmdb.Transaction, group_id: str, index: int) -> int:
        """The number of tokens held of one response. A damaged last piece is dropped."""
        prefix = _prefix(group_id, index)
        with transaction.cursor(self._pieces) as cursor:
            is_beyond = cursor.set_range(_prefix(group_id, index + 1))
            while cursor.prev() if is_beyond else cursor.last():
                key, value = bytes(cursor.key()), cursor.value()
                if not key.startswith(prefix):
                    break
                if is_whole(value):
                    return _header_decoder.decode(read_header(value)).end
                self._say_damaged(key)
                cursor.delete()
                is_beyond = cursor.set_range(key)
        return 0

    def _responses(self, transaction: lmdb.Transaction, group_id: str) -> tuple[list[PartialResponse], list[bytes]]:
        """The responses of a group, and the keys of pieces that are damaged or follow a damaged one."""
        pieces: dict[int, list[PartialResponse]] = {}
        damaged: list[bytes] = []
        prefix = _prefix(group_id)
        with transaction.cursor(self._pieces) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and (key := bytes(cursor.key())).startswith(prefix):
                index = int.from_bytes(key[len(prefix) : len(prefix) + 4], "big")
                start = int.from_bytes(key[-8:], "big")
                before = pieces.setdefault(index, [])
                if start == (before[-1].header.end if before else 0) and is_whole(cursor.value()):
                    before.append(_piece(cursor.value()))
                else:
                    self._say_damaged(key)
                    damaged.append(key)
                is_there = cursor.next()
        responses = []
        for index, those in pieces.items():
            try:
                responses += [join_pieces(those)] if those else []
            except ValueError as error:
                log.warning("%s: %s; it will be sampled again", self.path, error)
                damaged += [_key(group_id, index, piece.header.start) for piece in those]
        return responses, damaged

    def _delete_one(self, transaction: lmdb.Transaction, group_id: str) -> None:
        prefix = _prefix(group_id)
        with transaction.cursor(self._pieces) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and bytes(cursor.key()).startswith(prefix):
                is_there = cursor.delete()
        transaction.delete(group_id.encode(), db=self._writers)

    def _make_room(self, environment: lmdb.Environment) -> None:
        """Delete the groups whose last handover is the oldest, once the map is nearly full.

        Such groups will hardly be completed: they were given up, or are generated elsewhere.
        """
        if self._used_bytes(environment) <= _HIGH_WATER * self._map_size_bytes:
            return
        with environment.begin() as transaction, transaction.cursor(self._writers) as cursor:
            by_age = sorted((_writer_decoder.decode(value)[1], key.decode()) for key, value in cursor)
        for _, group_id in by_age:
            log.warning("%s: nearly full; the unfinished responses of %s are dropped", self.path, group_id)
            with environment.begin(write=True, buffers=True) as deleting:
                self._delete_one(deleting, group_id)
            if self._used_bytes(environment) <= _LOW_WATER * self._map_size_bytes:
                return

    def _used_bytes(self, environment: lmdb.Environment) -> int:
        with environment.begin() as transaction:
            stats = [transaction.stat(table) for table in (self._pieces, self._writers)]
        return sum(
            stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) for stat in stats
        )

    def _say_damaged(self, key: bytes) -> None:
        group_id, index, start = key[:-13], int.from_bytes(key[-12:-8], "big"), int.from_bytes(key[-8:], "big")
        log.warning(
            "%s: tokens of %s/%d from %d on are damaged on disk and are dropped; they will be sampled again",
            self.path, group_id.decode(), index, start,
        )  # fmt: skip

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.path}: unfinished responses cannot be kept: {error}; a rollout's death now costs what it has "
            "generated of them, nothing acknowledged is lost"
        )


def _prefix(group_id: str, index: int | None = None) -> bytes:
    """The common prefix of the keys of a group's pieces, or of one response's."""
    group = group_id.encode() + b"\0"
    return group if index is None else group + index.to_bytes(4, "big")


def _key(group_id: str, index: int, start: int) -> bytes:
    return _prefix(group_id, index) + start.to_bytes(8, "big")


def _piece(value: Value) -> PartialResponse:
    """A stored piece, as views into the map."""
    header = _header_decoder.decode(read_header(value))
    return PartialResponse(header, *read_token_columns(value, header.columns, header.num_tokens, first_array(value)))

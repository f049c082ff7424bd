"""One file of the journal: its frames, and the difference between an unfinished end and damage.

    file:   magic · record · record · …
    record: length u32 · xxh3-64 of the payload u64 · payload (MessagePack, tagged by the record's type)

Owns: the format, reading it back, and finding the next whole record behind bytes that cannot be read. Does not own what
records mean (`core.work.ledger`), nor when files begin and end (`journal`).
Invariants: a record is returned only if its checksum holds; bytes that cannot be read are named, never passed over in
silence.

A process that dies leaves at most one record that was begun and not finished, at the end of the newest file; nobody has
relied on it. Everything else that cannot be read was durable once: that is damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from ring_async.core.work.ledger import AnyRecord
from ring_async.errors import StorageError

MAGIC: Final = b"RINGJNL1"
_FRAME: Final = struct.Struct("<IQ")
_TAG: Final = b"\xa4type"
"""Each payload is a MessagePack map whose first key is `type`; one byte, the size of the map, lies before it."""

_decoder = msgspec.msgpack.Decoder(AnyRecord)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record, and the file offset of its end."""

    record: AnyRecord
    end: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes `[start, end)` of a file that are no whole record. `is_torn`: the end of a write that did not finish."""

    path: Path
    start: int
    end: int
    is_torn: bool

    def __str__(self) -> str:
        if self.is_torn:
            return f"{self.path}: {self.end - self.start:,} bytes at the end are a record that was never finished"
        return (
            f"{self.path}: bytes {self.start:,} to {self.end:,} are damaged on disk; the records that were there are "
            "lost, and with them what became of their trajectories"
        )


def journal_files(folder: Path) -> list[Path]:
    """The files of a journal, oldest first."""
    return sorted(folder.glob("[0-9]*.log"), key=file_number)


def file_number(path: Path) -> int:
    """The place of a file in the order of its journal, from 1."""
    return int(path.stem)


def frame_record(record: AnyRecord) -> bytes:
    """The bytes of one record in a file."""
    payload = _encoder.encode(record)
    return _FRAME.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload


def read_file(path: Path) -> Iterator[ReadRecord]:
    """The whole records of one file, in order, also those behind damaged bytes. Changes nothing.

    Raises:
        StorageError: the file cannot be read, or is not a journal.
    """
    return (part for part in scan_file(path) if isinstance(part, ReadRecord))


def scan_file(path: Path) -> Iterator[ReadRecord | Unreadable]:
    """The whole records of one file and the bytes between them that cannot be read, in order. Changes nothing.

    Raises:
        StorageError: the file cannot be read, or is not a journal.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be read: {error.strerror}") from error
    position = 0
    if data[: len(MAGIC)] != MAGIC:
        if _next_whole(data, 0) is None:
            raise StorageError(f"{path}: not a journal of this version")
    else:
        position = len(MAGIC)
    while position < len(data):
        read = _record_at(data, position)
        if read is not None:
            position = read.end
            yield read
            continue
        following = _next_whole(data, position + 1)
        end = len(data) if following is None else following
        yield Unreadable(path, position, end, is_torn=following is None and not _was_whole(data, position))
        position = end


def _record_at(data: bytes, position: int) -> ReadRecord | None:
    if position + _FRAME.size > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, position)
    end = position + _FRAME.size + length
    payload = data[position + _FRAME.size : end]
    if end > len(data) or xxhash.xxh3_64_intdigest(payload) != checksum:
        return None
    try:
        return ReadRecord(_decoder.decode(payload), end)
    except msgspec.DecodeError:
        return None  # its checksum holds by chance, or another version wrote it


def _next_whole(data: bytes, start: int) -> int | None:
    """The offset of the first whole record at `start` or behind; None if there is none."""
    found = data.find(_TAG, start)
    while found >= 0:
        position = found - 1 - _FRAME.size
        if position >= start and _record_at(data, position) is not None:
            return position
        found = data.find(_TAG, found + 1)
    return None


def _was_whole(data: bytes, position: int) -> bool:
    """Whether the unreadable end of a file was a finished record once: its length, or its checksum, still fits.

    A write that did not finish leaves fewer bytes than its length says, or, after a crash of the host, zeros.
    """
    payload = data[position + _FRAME.size :]
    if len(payload) == 0:
        return False
    length, checksum = _FRAME.unpack_from(data, position)
    is_zeroed = len(payload) >= 8 and not any(payload[-8:])
    return (length == len(payload) and not is_zeroed) or checksum == xxhash.xxh3_64_intdigest(payload)

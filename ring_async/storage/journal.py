"""The controller's durable journal: every record of the ledger, appended and synced.

Owns: the files `00000001.log …` of one folder, their format, rotation, and recovery. Does not own what records mean
(`core.work.ledger`).
Invariants: `append` returns after the records are on disk; a file is read up to its first torn record; every file but
the first begins with a snapshot of the whole ledger, so the newest file alone rebuilds it.

    file:   magic · record · record · …
    record: length u32 · xxh3-64 of the payload u64 · payload (MessagePack, tagged by the record's type)
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from ring_async.core.work.ledger import AnyRecord, Ledger, LedgerError
from ring_async.errors import StorageError

log = logging.getLogger(__name__)

MAGIC: Final = b"RINGJNL1"
_FRAME: Final = struct.Struct("<IQ")
_decoder = msgspec.msgpack.Decoder(AnyRecord)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record, and the file offset of its end."""

    record: AnyRecord
    end: int


class Journal:
    """The journal of one run, and the ledger it holds (`ledger`).

    Args:
        folder: made if missing.
        max_file_bytes: beyond it a new file begins.
        keep_files: how many rotated files stay for the audit.

    Raises:
        StorageError: the folder cannot be written, another process holds it, or a rotated file is damaged.
    """

    def __init__(self, folder: Path, *, max_file_bytes: int = 64 << 20, keep_files: int = 4) -> None:
        self.folder = folder
        self.ledger = Ledger()
        self.torn_bytes = 0
        """Bytes of a torn record that recovery cut off: it was being written when the process died."""
        self.impossible: list[str] = []
        """Records on disk that the ledger refused; empty unless something is wrong."""
        self._max_file_bytes = max_file_bytes
        self._keep_files = keep_files
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = journal_files(folder)
            self._number = _number(files[-1]) if files else 0
            if not files:
                self._begin_file(None)
            else:
                self._recover(files[-1])
        except OSError as error:
            raise _storage_error(folder, error) from error

    def append(self, *records: AnyRecord) -> None:
        """Make records durable, then apply them. All of one call share one sync.

        Raises:
            LedgerError: the ledger refuses a record; nothing was written.
            StorageError: nothing was written; the same call may succeed once there is space.
        """
        for record in records:
            self.ledger.check_record(record)
        data = b"".join(frame_record(record) for record in records)
        try:
            self._write(data)
        except OSError as error:
            raise _storage_error(self.folder, error, needed_bytes=len(data)) from error
        for record in records:
            self.ledger.apply(record)
        if self._size > self._max_file_bytes:
            try:
                self._begin_file(self.ledger)
            except OSError as error:  # the records are safe in the old file, which keeps growing until there is space
                log.warning("%s: the journal could not be rotated: %s", self.folder, error.strerror)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(data)

    def _recover(self, path: Path) -> None:
        end = len(MAGIC)
        for read in read_file(path):
            try:
                self.ledger.apply(read.record)
            except LedgerError as error:
                self.impossible.append(str(error))
            end = read.end
        self._open(path)
        self._size = end
        self.torn_bytes = os.fstat(self._descriptor).st_size - end
        if self.torn_bytes:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def _begin_file(self, ledger: Ledger | None) -> None:
        """Start the next file; it gets its name only after its snapshot is written whole."""
        number = self._number + 1
        path = self.folder / f"{number:08d}.log"
        fresh = path.with_suffix(".tmp")
        data = MAGIC + (frame_record(ledger.snapshot()) if ledger else b"")
        with fresh.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
        _sync_folder(self.folder)
        if self._number:
            os.close(self._descriptor)
        self._number = number
        self._open(path)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        for old in journal_files(self.folder)[: -1 - self._keep_files]:
            old.unlink()

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StorageError(f"{path}: another process writes this journal; is the run up already?") from None


def journal_files(folder: Path) -> list[Path]:
    """The files of a journal, oldest first."""
    return sorted(folder.glob("[0-9]*.log"), key=_number)


def read_file(path: Path) -> Iterator[ReadRecord]:
    """The whole records of one file, in order, up to its end or its first torn record. Changes nothing.

    Raises:
        StorageError: not a journal.
    """
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC:
        raise StorageError(f"{path}: not a journal of this version")
    position = len(MAGIC)
    while position + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, position)
        payload = data[position + _FRAME.size : position + _FRAME.size + length]
        if len(payload) != length or xxhash.xxh3_64_intdigest(payload) != checksum:
            return
        position += _FRAME.size + length
        yield ReadRecord(_decoder.decode(payload), position)


def frame_record(record: AnyRecord) -> bytes:
    """The bytes of one record in a file."""
    payload = _encoder.encode(record)
    return _FRAME.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload


def _number(path: Path) -> int:
    return int(path.stem)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(folder: Path, error: OSError, *, needed_bytes: int = 0) -> StorageError:
    need = f"; needs {needed_bytes:,} bytes" if needed_bytes else ""
    return StorageError(
        f"{folder}: the journal cannot be written: {error.strerror}{need}; nothing acknowledged is lost"
    )

"""The controller's durable journal: every record of the ledger, appended and synced.

Owns: the files `00000001.log …` of one folder, their rotation, and recovery. Does not own the format of a file
(`journal_file`), nor what records mean (`core.work.ledger`).
Invariants: `append` returns after the records are on disk; the ledger holds what is on disk, and nothing else; every
file but the first begins with a snapshot of the whole ledger, so the newest file alone rebuilds it; what cannot be read
back is named and kept.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ring_async.core.work.ledger import Ledger
from ring_async.core.work.ledger_records import AnyRecord, GroupReturned, Noted
from ring_async.errors import StorageError
from ring_async.storage.journal_file import file_number, frame_record, journal_files
from ring_async.storage.journal_recovery import read_back
from ring_async.storage.journal_rotation import Rotation
from ring_async.storage.run_dir import write_whole

log = logging.getLogger(__name__)

DAMAGED: Final = ".damaged"
"""Suffix of a file that could not be read back whole: it is kept, and `audit` reports it."""
_GROWTH: Final = 2
"""A file rotates when it is this many times its own snapshot: each byte of snapshots is paid for by a byte appended."""


class Journal:
    """The journal of one run, and the ledger it holds (`ledger`).

        journal = Journal(run_dir.journal)
        journal.append(GroupReserved(reservation, owner))            # durable, and in `journal.ledger`
        journal.hold(GroupReturned("g7", "lease_expired"))           # as soon as the disk has room

    Args:
        folder: made if missing.
        max_file_bytes: beyond it a new file begins, unless the present one is mostly snapshot.
        keep_files: how many rotated files stay for the audit.

    Raises:
        StorageError: the folder cannot be written, another process holds it, or its files are no journal.
    """

    def __init__(self, folder: Path, *, max_file_bytes: int = 64 << 20, keep_files: int = 4) -> None:
        self.folder = folder
        self.ledger = Ledger()
        self.torn_bytes = 0
        """Bytes of a torn record that recovery cut off: it was being written when the process died."""
        self.damage: list[str] = []
        """What could not be read back, in words; empty unless the disk lost something."""
        self.impossible: list[str] = []
        """Records on disk that the ledger refused; empty unless something is wrong."""
        self._max_file_bytes = max_file_bytes
        self._keep_files = keep_files
        self._held: list[AnyRecord] = []
        self._rotation: Rotation | None = None
        self._rotate_at_bytes = max_file_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = journal_files(folder)
            self._number = file_number(files[-1]) if files else 0
            if files:
                self._recover(files)
            else:
                self._begin_file()
        except OSError as error:
            raise _storage_error(folder, error) from error

    def append(self, *records: AnyRecord) -> None:
        """Make records durable, then apply them. All of one call share one sync, with those held before.

        Raises:
            LedgerError: the ledger refuses a record; nothing was written.
            StorageError: nothing was written; the same call may succeed once there is space.
        """
        for record in records:
            self.ledger.check_record(record)
        records = (*self._held, *records)
        data = b"".join(frame_record(record) for record in records)
        try:
            self._write(data)
        except OSError as error:
            raise _storage_error(self.folder, error, needed_bytes=len(data)) from error
        self._held.clear()
        for record in records:
            self.ledger.apply(record)
        self._rotate(data)

    def hold(self, *records: Noted | GroupReturned) -> None:
        """Append records now or, while the disk has no room, as soon as it does: with the next `append` or `flush`.

        For what has happened anyway (time passed, an actor died) and what a restart would find out again. The ledger
        refuses none of these records.
        """
        self._held += records
        self.flush()

    def flush(self) -> None:
        """Append what is held, if there is room now."""
        if not self._held:
            return
        try:
            self.append()
        except StorageError as error:
            log.debug("%d records are held: %s", len(self._held), error)

    @property
    def num_held(self) -> int:
        """The number of records that wait for room on the disk."""
        return len(self._held)

    def close(self) -> None:
        if self._rotation is not None:
            self._rotation.cancel()
        os.close(self._descriptor)

    # -- parts

    def _write(self, data: bytes) -> None:
        """Write and sync at the end of the file; after an error the file is as it was."""
        if os.fstat(self._descriptor).st_size > self._size:  # a failed write could not be cut off then
            os.ftruncate(self._descriptor, self._size)
        write_whole(self._descriptor, data, self._size, is_synced=True)
        self._size += len(data)

    def _recover(self, files: Sequence[Path]) -> None:
        self._open(files[-1])  # locked before it is read
        found = read_back(files, self.ledger)
        self.impossible = found.impossible
        self.damage = [str(part) for part in found.damage]
        if found.damage:
            for part in self.damage:
                log.error("%s", part)
            self._set_aside(sorted({part.path for part in found.damage}))
            return
        self._size = found.end
        self._rotate_at_bytes = max(self._max_file_bytes, _GROWTH * found.snapshot_end)
        self.torn_bytes = found.torn_bytes
        if self.torn_bytes:
            log.warning("%s: %d bytes of an unfinished record are cut off", files[-1], self.torn_bytes)
            os.ftruncate(self._descriptor, found.end)
            os.fsync(self._descriptor)

    def _set_aside(self, damaged: Sequence[Path]) -> None:
        """Begin a file with what could be read, then rename the damaged ones, so that no rotation deletes them."""
        self._begin_file()
        for path in damaged:
            path.rename(path.with_suffix(DAMAGED))
            log.error("%s is kept as %s", path, path.with_suffix(DAMAGED).name)

    def _begin_file(self) -> None:
        """Start the next file at once, with a snapshot of the ledger unless it is the first."""
        rotation = self._next_file()
        rotation.finish()
        self._go_on_in(rotation)

    def _next_file(self) -> Rotation:
        path = self.folder / f"{self._number + 1:08d}.log"
        return Rotation(path, self.ledger.snapshot_in_parts() if self._number else ())

    def _rotate(self, data: bytes) -> None:
        """Begin, or complete, a rotation; `data` was appended just now."""
        if self._rotation is None:
            if self._size > self._rotate_at_bytes:
                self._rotation = self._next_file()
            return
        self._rotation.note(data)
        if not self._rotation.is_ready:
            return
        rotation, self._rotation = self._rotation, None
        try:
            rotation.finish()
            self._go_on_in(rotation)
        except OSError as error:  # the records are safe in the old file, which keeps growing until there is space
            self._rotate_at_bytes = self._size + self._max_file_bytes
            log.warning("%s: the journal could not be rotated: %s", self.folder, error.strerror)

    def _go_on_in(self, rotation: Rotation) -> None:
        before = self._descriptor if self._number else None
        self._open(rotation.path)
        if before is not None:
            os.close(before)
        self._number = file_number(rotation.path)
        self._size = os.fstat(self._descriptor).st_size
        self._rotate_at_bytes = max(self._max_file_bytes, _GROWTH * rotation.snapshot_bytes)
        for old in journal_files(self.folder)[: -1 - self._keep_files]:
            old.unlink()

    def _open(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StorageError(f"{path}: another process writes this journal; is the run up already?") from None
        self._descriptor = descriptor


def damaged_files(folder: Path) -> list[Path]:
    """The files of a journal that could not be read back whole and were set aside."""
    return sorted(folder.glob(f"[0-9]*{DAMAGED}"))


def _storage_error(folder: Path, error: OSError, *, needed_bytes: int = 0) -> StorageError:
    need = f"; needs {needed_bytes:,} bytes" if needed_bytes else ""
    return StorageError(
        f"{folder}: the journal cannot be written: {error.strerror}{need}; nothing acknowledged is lost"
    )

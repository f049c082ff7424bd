"""The next file of a journal, written beside the present one while that goes on growing.

Owns: the thread that writes a snapshot, and the records that are appended to the present file meanwhile. Does not own
the present file, nor when a rotation begins (`journal`).
Invariants: the new file gets its name only when it holds, durably, all that the present one does; a rotation that fails
leaves nothing behind and costs nothing but a later attempt.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ring_async.core.work.ledger_records import AnyRecord
from ring_async.storage.journal_file import MAGIC, frame_record
from ring_async.storage.run_dir import sync_path


class Rotation:
    """One rotation under way.

        rotation = Rotation(folder / "00000002.log", ledger.snapshot_in_parts())
        rotation.note(frame_record(record))        # appended to the present file meanwhile
        if rotation.is_ready:
            rotation.finish()                      # 00000002.log holds the snapshot and the record

    Args:
        path: name of the new file.
        snapshot: drawn and written on a thread of its own.
    """

    def __init__(self, path: Path, snapshot: Iterable[AnyRecord]) -> None:
        self.path = path
        self.snapshot_bytes = 0
        self._fresh = path.with_suffix(".tmp")
        self._snapshot = snapshot
        self._meanwhile: list[bytes] = []
        self._error: OSError | None = None
        self._is_cancelled = threading.Event()
        self._thread = threading.Thread(target=self._write_snapshot, name="journal rotation", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether the snapshot is written, or could not be: `finish` returns, or raises, soon."""
        return not self._thread.is_alive()

    def note(self, data: bytes) -> None:
        """Keep what was appended to the present file, for the new one."""
        self._meanwhile.append(data)

    def finish(self) -> None:
        """Append what came meanwhile, and give the file its name.

        Raises:
            OSError: the new file could not be written; there is none.
        """
        self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            with self._fresh.open("ab") as stream:
                stream.write(b"".join(self._meanwhile))
                stream.flush()
                os.fdatasync(stream.fileno())
            self._fresh.replace(self.path)
            sync_path(self.path.parent)
        except OSError:
            self._fresh.unlink(missing_ok=True)
            raise

    def cancel(self) -> None:
        """Give the rotation up; nothing of it stays."""
        self._is_cancelled.set()
        self._thread.join()
        self._fresh.unlink(missing_ok=True)

    def _write_snapshot(self) -> None:
        try:
            with self._fresh.open("wb") as stream:
                stream.write(MAGIC)
                for record in self._snapshot:
                    if self._is_cancelled.is_set():
                        return
                    stream.write(frame_record(record))
                stream.flush()
                os.fdatasync(stream.fileno())
                self.snapshot_bytes = stream.tell()
        except OSError as error:
            self._error = error

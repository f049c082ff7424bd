"""Reading a journal back: the ledger as the newest file that can be trusted says, and what was lost.

Owns: the choice of the file to begin with. Does not own the format of a file (`journal_file`), and changes nothing.

The newest file alone is enough as long as its snapshot is whole. If the snapshot is damaged, the file before it is read
first: it holds all that the snapshot did. Records are idempotent, so the overlap of two files changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ring_async.core.work.ledger import Ledger, LedgerError, LedgerSnapshot, SnapshotPart
from ring_async.storage.journal_file import MAGIC, ReadRecord, Unreadable, scan_file


@dataclass(slots=True)
class ReadBack:
    """What reading a journal found.

    Attributes:
        end: where the whole records of the newest file end.
        snapshot_end: where the snapshot of the newest file ends.
        torn_bytes: of an unfinished record at the end of the newest file.
        damage: what cannot be read, apart from that.
        impossible: records that the ledger refused.
    """

    end: int = len(MAGIC)
    snapshot_end: int = 0
    torn_bytes: int = 0
    damage: list[Unreadable] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)


def read_back(files: Sequence[Path], ledger: Ledger) -> ReadBack:
    """Apply the records of a journal to an empty ledger. `files` are all files, oldest first.

    Raises:
        StorageError: a file is not a journal.
    """
    found = ReadBack()
    first = len(files) - 1
    while first > 0 and not has_whole_snapshot(files[first]):
        first -= 1
    for path in files[first:]:
        is_newest = path == files[-1]
        for part in scan_file(path):
            if isinstance(part, Unreadable):
                if part.is_torn and is_newest:
                    found.torn_bytes = part.end - part.start
                else:
                    found.damage.append(part)
                continue
            if isinstance(part.record, LedgerSnapshot | SnapshotPart):
                if is_newest:
                    found.snapshot_end = part.end
                if path != files[first]:
                    continue  # damaged; the files before it told all that it would
            found.end = part.end
            try:
                ledger.apply(part.record)
            except LedgerError as error:
                found.impossible.append(f"{path}: {error}")
    return found


def has_whole_snapshot(path: Path) -> bool:
    """Whether a rotated file begins with its whole snapshot."""
    parts = scan_file(path)
    head = next(parts, None)
    if not isinstance(head, ReadRecord) or not isinstance(head.record, LedgerSnapshot):
        return False
    for _ in range(head.record.num_parts):
        part = next(parts, None)
        if not isinstance(part, ReadRecord) or not isinstance(part.record, SnapshotPart):
            return False
    return True

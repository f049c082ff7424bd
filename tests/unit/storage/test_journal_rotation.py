"""Rotation: it goes on beside the appends, its cost does not grow with the snapshot, and its failure costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from ring_async.core.work.ledger import Ledger
from ring_async.core.work.ledger_records import AnyRecord, GroupReserved, LedgerSnapshot, Noted, SnapshotPart
from ring_async.storage.journal import Journal
from ring_async.storage.journal_file import journal_files, read_file
from ring_async.storage.journal_rotation import Rotation
from ring_async.testing.builders import make_reservation
from ring_async.testing.full_disk import files_limited_to


def wait_for_rotation(journal: Journal) -> None:
    """Until the snapshot under way is written: the next append completes the rotation."""
    if journal._rotation is not None:
        journal._rotation._thread.join()


def journal_of(folder: Path, num_groups: int, **settings: int) -> Journal:
    journal = Journal(folder, **settings)
    journal.append(*(GroupReserved(make_reservation(f"g{n}"), "rollout-0") for n in range(num_groups)))
    return journal


def test_appends_go_on_while_a_snapshot_is_written(tmp_path: Path) -> None:
    may_go_on, first_part = threading.Event(), threading.Event()
    ledger = Ledger()
    ledger.apply(Noted("cursor", 1))

    def slow_snapshot() -> Iterator[AnyRecord]:
        for record in ledger.snapshot_in_parts():
            first_part.set()
            may_go_on.wait()
            yield record

    rotation = Rotation(tmp_path / "00000002.log", slow_snapshot())
    first_part.wait()
    assert not rotation.is_ready
    may_go_on.set()
    rotation.finish()
    assert (tmp_path / "00000002.log").exists()


def test_what_is_appended_meanwhile_is_in_the_new_file(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 20, max_file_bytes=1_000)
    for number in range(5):
        journal.append(Noted("cursor", number))
    wait_for_rotation(journal)
    journal.append(Noted("cursor", 5))
    before = journal.ledger.snapshot()
    journal.close()
    newest = journal_files(tmp_path)[-1]
    assert newest.name == "00000002.log"
    records = [read.record for read in read_file(newest)]
    assert isinstance(records[0], LedgerSnapshot)
    again = Journal(tmp_path)
    assert again.ledger.snapshot() == before
    again.close()


def test_a_snapshot_beyond_the_limit_does_not_rotate_at_each_append(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 100, max_file_bytes=1_000)  # the snapshot is ten times as large as the limit
    journal.append(Noted("cursor", -1))
    wait_for_rotation(journal)
    for number in range(50):
        journal.append(Noted("cursor", number))
        wait_for_rotation(journal)
    journal.close()
    assert len(journal_files(tmp_path)) == 2


def test_a_snapshot_of_many_groups_is_many_records_of_moderate_size(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 600, max_file_bytes=1_000)
    wait_for_rotation(journal)
    journal.append(Noted("cursor", 1))
    before = journal.ledger.snapshot()
    journal.close()
    records = [read.record for read in read_file(journal_files(tmp_path)[-1])]
    assert isinstance(records[0], LedgerSnapshot)
    assert records[0].num_parts == 3
    assert [len(part.live) for part in records if isinstance(part, SnapshotPart)] == [256, 256, 88]
    again = Journal(tmp_path)
    assert again.ledger.snapshot() == before
    again.close()


def test_a_rotation_without_room_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 20)
    with files_limited_to(1_000):
        journal._rotation = Rotation(tmp_path / "00000002.log", journal.ledger.snapshot_in_parts())
        wait_for_rotation(journal)
    journal.append(Noted("cursor", 1))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000001.log"]
    journal.append(Noted("cursor", 2))
    journal.close()
    again = Journal(tmp_path)
    assert again.ledger.notes == {"cursor": 2}
    again.close()


def test_a_closed_journal_leaves_no_unfinished_file(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 20, max_file_bytes=1_000)
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.log"]

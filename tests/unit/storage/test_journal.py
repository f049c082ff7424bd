"""The journal: durable, torn-tail safe, rotated, and equal to the ledger it was written from."""

from pathlib import Path

import pytest

from ring_async.core.work.ledger import LedgerError
from ring_async.core.work.ledger_records import GroupReissued, GroupReserved, GroupReturned, Noted, StatesMoved
from ring_async.errors import StorageError
from ring_async.storage.journal import Journal
from ring_async.storage.journal_file import journal_files, read_file
from ring_async.testing.builders import make_reservation
from ring_async.testing.full_disk import files_limited_to
from ring_async.trajectory_states import TrajectoryState


def write_history(journal: Journal, num_groups: int = 3) -> None:
    for number in range(num_groups):
        journal.append(GroupReserved(make_reservation(f"g{number}"), "rollout-0"), Noted("cursor", number))
    journal.append(
        StatesMoved((TrajectoryState("g0/0", "buffered", "", 4), TrajectoryState("g0/1", "buffered", "", 4)))
    )
    journal.append(StatesMoved((TrajectoryState("g0/0", "consumed", "", 4),)))
    journal.append(GroupReissued("g1", "rollout-1"), GroupReturned("g2", "verifier:timeout"))


def append_when_rotated(journal: Journal, record: GroupReserved | GroupReturned) -> None:
    """Append once the snapshot of a rotation under way is written, so that this append completes it."""
    if journal._rotation is not None:
        journal._rotation._thread.join()
    journal.append(record)


def test_reopened_journal_gives_the_same_ledger(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write_history(journal)
    before = journal.ledger.snapshot()
    journal.close()
    again = Journal(tmp_path)
    assert again.ledger.snapshot() == before
    assert again.ledger.counts()["reserved"] == 6
    assert again.ledger.causes() == {"failed(verifier:timeout)": 2}
    assert again.ledger.notes == {"cursor": 2}
    assert again.ledger.live["g1"].owner == "rollout-1"
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 13, 40])
def test_a_torn_tail_is_cut_off_and_writing_goes_on(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.append(Noted("a", 1))
    whole = journal_files(tmp_path)[0].stat().st_size
    journal.append(Noted("b", "x" * 100))
    journal.close()
    path = journal_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[: whole + cut])
    again = Journal(tmp_path)
    assert again.torn_bytes == cut
    assert again.ledger.notes == {"a": 1}
    again.append(Noted("c", 3))
    again.close()
    last = Journal(tmp_path)
    assert last.ledger.notes == {"a": 1, "c": 3}
    last.close()


def test_a_flipped_bit_ends_the_reading(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(Noted("a", 1))
    journal.append(Noted("b", 2))
    journal.close()
    path = journal_files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [read.record for read in read_file(path)] == [Noted("a", 1)]


def test_rotation_keeps_the_ledger_and_few_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_file_bytes=2_000, keep_files=2)
    for number in range(60):
        append_when_rotated(journal, GroupReserved(make_reservation(f"h{number}"), "rollout-0"))
        append_when_rotated(journal, GroupReturned(f"h{number}", "owner_lost"))
    write_history(journal)
    before = journal.ledger.snapshot()
    journal.close()
    assert len(journal_files(tmp_path)) == 3
    assert not list(tmp_path.glob("*.tmp"))
    again = Journal(tmp_path)
    assert again.ledger.snapshot() == before
    again.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(StorageError, match="another process writes this journal"):
        Journal(tmp_path)
    journal.close()


def test_an_impossible_record_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(GroupReserved(make_reservation("g0"), "rollout-0"))
    size = journal_files(tmp_path)[0].stat().st_size
    with pytest.raises(LedgerError, match="generating cannot become retired"):
        journal.append(StatesMoved((TrajectoryState("g0/0", "retired"),)))
    assert journal_files(tmp_path)[0].stat().st_size == size
    journal.close()


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(Noted("a", 1))
    size = journal_files(tmp_path)[0].stat().st_size
    with files_limited_to(size + 7), pytest.raises(StorageError, match=rf"{tmp_path}: .*; needs \d+ bytes"):
        journal.append(Noted("b", 2))
    assert journal_files(tmp_path)[0].stat().st_size == size
    assert journal.ledger.notes == {"a": 1}
    journal.append(Noted("c", 3))
    assert notes_read_back(journal) == {"a": 1, "c": 3}


def test_what_cannot_be_put_off_is_held_while_the_disk_is_full(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(Noted("a", 1))
    size = journal_files(tmp_path)[0].stat().st_size
    with files_limited_to(size):
        journal.hold(Noted("b", 2))
        journal.hold(Noted("c", 3))
        assert journal.num_held == 2
        assert journal.ledger.notes == {"a": 1}, "the ledger holds what is on disk"
    journal.append(Noted("c", 4))
    assert journal.num_held == 0
    assert notes_read_back(journal) == {"a": 1, "b": 2, "c": 4}, "held records go before later ones"


def test_held_records_are_written_without_a_later_append(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with files_limited_to(journal_files(tmp_path)[0].stat().st_size):
        journal.hold(Noted("a", 1))
    journal.flush()
    assert notes_read_back(journal) == {"a": 1}


def notes_read_back(journal: Journal) -> dict[str, object]:
    """Close the journal, and read its notes from disk."""
    journal.close()
    again = Journal(journal.folder)
    again.close()
    assert (again.torn_bytes, again.damage, again.impossible) == (0, [], [])
    return again.ledger.notes

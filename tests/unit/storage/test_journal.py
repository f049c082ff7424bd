"""The journal: durable, torn-tail safe, rotated, and equal to the ledger it was written from."""

from pathlib import Path

import pytest

from ring_async.core.work.ledger import GroupReissued, GroupReserved, GroupReturned, LedgerError, Noted, StatesMoved
from ring_async.errors import StorageError
from ring_async.storage.journal import Journal, journal_files, read_file
from ring_async.testing.builders import make_reservation
from ring_async.trajectory_states import TrajectoryState


def write_history(journal: Journal, num_groups: int = 3) -> None:
    for number in range(num_groups):
        journal.append(GroupReserved(make_reservation(f"g{number}"), "rollout-0"), Noted("cursor", number))
    journal.append(
        StatesMoved((TrajectoryState("g0/0", "buffered", "", 4), TrajectoryState("g0/1", "buffered", "", 4)))
    )
    journal.append(StatesMoved((TrajectoryState("g0/0", "consumed", "", 4),)))
    journal.append(GroupReissued("g1", "rollout-1"), GroupReturned("g2", "verifier:timeout"))


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
    write_history(journal, num_groups=60)
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


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    journal = Journal(tmp_path)
    journal.append(Noted("a", 1))
    write = os.write

    def half_write(descriptor: int, data: memoryview) -> int:
        write(descriptor, bytes(data)[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_write)
        with pytest.raises(StorageError, match=rf"{tmp_path}.*No space left.*needs \d+ bytes"):
            journal.append(Noted("b", 2))
    assert journal.ledger.notes == {"a": 1}
    journal.append(Noted("c", 3))
    journal.close()
    again = Journal(tmp_path)
    assert again.ledger.notes == {"a": 1, "c": 3}
    assert again.torn_bytes == 0
    again.close()

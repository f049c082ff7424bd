"""Damage in the journal: it is told apart from an unfinished end, said, and kept; what is whole is still read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.core.work.ledger import GroupReserved, Noted
from ring_async.storage.audit import audit
from ring_async.storage.journal import Journal
from ring_async.storage.journal_file import MAGIC, Unreadable, frame_record, journal_files, scan_file
from ring_async.testing.builders import make_reservation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal of a hundred groups, one record each."""
    return write_groups(tmp_path / "journal")


def write_groups(folder: Path, num_groups: int = 100) -> Path:
    journal = Journal(folder)
    for number in range(num_groups):
        journal.append(GroupReserved(make_reservation(f"g{number}"), "rollout-0"))
    journal.close()
    return folder


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_one_flipped_byte_costs_one_record_and_is_said(folder: Path) -> None:
    path = journal_files(folder)[0]
    flip(path, path.stat().st_size // 10)
    journal = Journal(folder)
    assert len(journal.ledger.live) == 99
    assert len(journal.damage) == 1
    assert "00000001.log: bytes " in journal.damage[0]
    assert "are damaged on disk; the records that were there are lost" in journal.damage[0]
    assert journal.torn_bytes == 0
    journal.close()


def test_a_damaged_file_is_kept_and_no_audit_is_clean_afterwards(folder: Path) -> None:
    path = journal_files(folder)[0]
    flip(path, path.stat().st_size // 2)
    damaged = path.read_bytes()
    before = {violation.rule for violation in audit(folder.parent).violations}
    assert before == {"the journal is whole"}
    Journal(folder).close()
    assert (folder / "00000001.damaged").read_bytes() == damaged
    assert [path.name for path in journal_files(folder)] == ["00000002.log"]
    assert {violation.rule for violation in audit(folder.parent).violations} == {"the journal is whole"}
    again = Journal(folder)
    assert len(again.ledger.live) == 99
    assert not again.damage, "the new file is whole"
    again.close()


def test_a_damaged_snapshot_is_read_from_the_file_before(folder: Path) -> None:
    journal = Journal(folder, max_file_bytes=1_000)
    journal.append(Noted("cursor", 1))
    assert journal._rotation is not None
    journal._rotation._thread.join()
    journal.append(Noted("cursor", 2))
    journal.append(Noted("cursor", 3))
    before = journal.ledger.snapshot()
    journal.close()
    newest = journal_files(folder)[-1]
    assert newest.name == "00000002.log"
    flip(newest, len(MAGIC) + 200)
    again = Journal(folder)
    assert again.ledger.snapshot() == before
    assert len(again.damage) == 1
    again.close()


WHOLE = MAGIC + b"".join(
    frame_record(GroupReserved(make_reservation(f"g{number}"), "rollout-0")) for number in range(8)
)


@settings(max_examples=100, deadline=None)
@given(offset=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_flip_anywhere_is_said_and_costs_at_most_one_record(offset: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "00000001.log")
        path.write_bytes(WHOLE)
        flip(path, offset, bit)
        parts = list(scan_file(path))
        [unreadable] = [part for part in parts if isinstance(part, Unreadable)]
        assert not unreadable.is_torn
        assert unreadable.start <= offset < unreadable.end
        assert len(parts) - 1 >= 7


@settings(max_examples=60, deadline=None)
@given(size=st.integers(len(MAGIC), len(WHOLE) - 1))
def test_a_cut_anywhere_is_an_unfinished_end(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "00000001.log")
        path.write_bytes(WHOLE[:size])
        parts = list(scan_file(path))
        assert all(part.is_torn for part in parts if isinstance(part, Unreadable))
        assert sum(isinstance(part, Unreadable) for part in parts) <= 1

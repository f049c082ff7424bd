"""The newest trained tokens on disk: bounded, and readable while they are written."""

from __future__ import annotations

from pathlib import Path

from ring_async.records.trained_tokens import TrainedTokens
from ring_async.storage.trained_tokens import TrainedTokensFile, read_trained_tokens


def tokens(name: str, version: int = 1, number: int = 4) -> TrainedTokens:
    return TrainedTokens(name, version, 0, b"\0\0\x80\x3f" * number, b"\0" * number)


def test_what_was_written_is_read_back_oldest_first(tmp_path: Path):
    kept = TrainedTokensFile(tmp_path / "trained")
    kept.append([tokens("a", 1), tokens("b", 1)])
    kept.append([tokens("a", 2)])
    assert read_trained_tokens(tmp_path / "trained") == {"a": [tokens("a", 1), tokens("a", 2)], "b": [tokens("b", 1)]}
    assert read_trained_tokens(tmp_path / "trained", {"b"}) == {"b": [tokens("b", 1)]}


def test_the_files_stay_within_their_bound_and_the_newest_is_there(tmp_path: Path):
    kept = TrainedTokensFile(tmp_path / "trained", max_file_bytes=2000)
    for version in range(200):
        kept.append([tokens("a", version, number=20)])
    assert sum(path.stat().st_size for path in (tmp_path / "trained").iterdir()) <= 4000
    versions = [one.policy_version for one in read_trained_tokens(tmp_path / "trained")["a"]]
    assert versions == list(range(200 - len(versions), 200))
    assert len(versions) >= 10


def test_the_part_of_a_record_that_is_being_written_is_left_out(tmp_path: Path):
    kept = TrainedTokensFile(tmp_path / "trained")
    kept.append([tokens("a", 1)])
    kept.append([tokens("a", 2)])
    path = next((tmp_path / "trained").iterdir())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_trained_tokens(tmp_path / "trained").get("a", []) in ([], [tokens("a", 1)])


def test_nothing_kept_is_nothing_read(tmp_path: Path):
    assert read_trained_tokens(tmp_path / "none") == {}


def test_a_disk_that_takes_nothing_is_said_once_and_stops_nothing(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("in the way")
    kept = TrainedTokensFile(tmp_path / "file")
    kept.append([tokens("a")])
    kept.append([tokens("a")])
    assert len(caplog.records) == 1
    assert "are not kept" in caplog.text

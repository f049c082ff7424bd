"""A file of JSON lines: a full disk makes lines wait, readers see whole ones only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ring_async.storage import json_lines
from ring_async.storage.json_lines import JsonLines
from ring_async.testing.full_disk import files_limited_to


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_lines_wait_while_the_disk_is_full_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = JsonLines(path)
    lines.append({"n": 0})
    with files_limited_to(path.stat().st_size + 3):
        lines.append({"n": 1})
        lines.append({"n": 2})
        assert numbers(path) == [0], "no part of a line is in the file"
    lines.append({"n": 3})
    assert numbers(path) == [0, 1, 2, 3]
    lines.close()


def test_held_lines_are_written_without_a_later_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = JsonLines(path)
    with files_limited_to(0):
        lines.append({"n": 0})
    lines.flush()
    assert numbers(path) == [0]
    lines.close()


def test_of_too_many_held_lines_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_HELD_LINES", 3)
    path = tmp_path / "events.jsonl"
    lines = JsonLines(path)
    with files_limited_to(0):
        for number in range(5):
            lines.append({"n": number})
    lines.close()
    assert numbers(path) == [2, 3, 4]


@pytest.mark.parametrize("torn", [b"", b'{"n": 2', b"x" * 100])
def test_a_line_that_was_never_finished_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n' + torn)
    lines = JsonLines(path)
    lines.append({"n": 9})
    lines.close()
    assert numbers(path) == [0, 1, 9]

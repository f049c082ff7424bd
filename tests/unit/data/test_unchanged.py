"""Files that are not those a run began with are refused by name, unless that is accepted."""

from pathlib import Path

import pytest

from ring_async.config.schema import Config
from ring_async.data import unchanged
from ring_async.data.unchanged import data_digests
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config


def config_of(tmp_path: Path, **section: str) -> Config:
    rows = {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "verifier": "exact", **section}
    return make_config(
        sources={"rows": rows, "sums": {"task": "chain_sum", "verifier": "exact"}},
        mixture={"rows": 1.0, "sums": 1.0},
        verifiers={"exact": {"use": "math"}},
    )


def changed_sources(config: Config, begun_with: dict[str, str]) -> list[str]:
    return unchanged.changed_sources(config, begun_with, data_digests(config))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return file


def test_the_same_content_under_another_name_is_no_change(tmp_path: Path, rows: Path) -> None:
    begun_with = data_digests(config_of(tmp_path))
    assert list(begun_with) == ["rows"]
    assert changed_sources(config_of(tmp_path), begun_with) == []
    moved = rows.rename(tmp_path / "moved.jsonl")
    assert changed_sources(config_of(tmp_path, path=str(moved)), begun_with) == []


def test_a_row_more_is_refused_or_accepted(tmp_path: Path, rows: Path) -> None:
    begun_with = data_digests(config_of(tmp_path))
    rows.write_text(rows.read_text() * 2)
    with pytest.raises(
        ConfigError, match=r"sources.rows.path: .*go on with the new ones: sources.rows.when_changed=acc"
    ):
        changed_sources(config_of(tmp_path), begun_with)
    assert changed_sources(config_of(tmp_path, when_changed="accept"), begun_with) == ["rows"]


def test_files_of_evaluation_count_too(tmp_path: Path, rows: Path) -> None:
    held_out = tmp_path / "test.jsonl"
    held_out.write_text("one")
    config = config_of(tmp_path, held_out_path=str(held_out))
    begun_with = data_digests(config)
    held_out.write_text("two")
    with pytest.raises(ConfigError, match=r"sources\.rows\.path"):
        changed_sources(config, begun_with)


def test_a_source_that_the_run_did_not_have_is_no_change(tmp_path: Path, rows: Path) -> None:
    assert changed_sources(config_of(tmp_path), {}) == []


def test_a_file_that_is_gone_is_an_error(tmp_path: Path, rows: Path) -> None:
    rows.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        data_digests(config_of(tmp_path))

"""Verifier files lie in the run's folder by content, those of a composite's parts too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config
from ring_async.verifiers.kept_files import keep_configured, keep_file, keep_options


def make_file(folder: Path, text: str = "class Strict: ...", name: str = "strict.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_copy_outlives_changes_of_the_file(tmp_path: Path):
    file = make_file(tmp_path / "mine")
    first = keep_file(f"{file}:Strict", tmp_path / "kept")
    file.write_text("class Strict: mistaken = True")
    second = keep_file(f"{file}:Strict", tmp_path / "kept")
    file.unlink()
    assert first != second
    assert Path(first.removesuffix(":Strict")).read_text() == "class Strict: ..."
    assert Path(second.removesuffix(":Strict")).read_text() == "class Strict: mistaken = True"


def test_equal_content_has_an_equal_path_and_a_kept_file_stays_where_it_is(tmp_path: Path):
    kept = keep_file(f"{make_file(tmp_path / 'mine')}:Strict", tmp_path / "kept")
    assert keep_file(f"{make_file(tmp_path / 'yours')}:Strict", tmp_path / "kept") == kept
    assert keep_file(kept, tmp_path / "kept") == kept


@pytest.mark.parametrize("use", ["math", "package.module:Class"])
def test_what_is_no_file_is_left_as_it_is(tmp_path: Path, use: str):
    assert keep_file(use, tmp_path) == use
    assert not list(tmp_path.iterdir())


def test_parts_of_a_composite_are_kept(tmp_path: Path):
    file = make_file(tmp_path / "mine")
    parts = {"format": {"use": f"{file}:Strict", "weight": 0.2}, "quality": {"use": "math"}}
    kept = keep_options({"parts": parts, "order": ["format"]}, tmp_path / "kept")
    assert kept["parts"]["quality"] == {"use": "math"}
    assert kept["parts"]["format"] == {"use": keep_file(f"{file}:Strict", tmp_path / "kept"), "weight": 0.2}
    assert kept["order"] == ["format"]


def test_a_configuration_is_kept_as_a_whole_and_a_missing_file_is_named(tmp_path: Path):
    file = make_file(tmp_path / "mine")
    config = make_config(verifiers={"exact": {"use": f"{file}:Strict", "options": {"tolerance": 0.1}}})
    kept = keep_configured(config, tmp_path / "kept").verifiers["exact"]
    assert kept.use.startswith(str(tmp_path / "kept"))
    assert kept.options == {"tolerance": 0.1}
    file.unlink()
    with pytest.raises(ConfigError, match=r"verifiers\.exact\.use: .*strict\.py cannot be read"):
        keep_configured(config, tmp_path / "kept")

"""`scripts/check_house.py` refuses what it says it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_house.py"


@pytest.fixture
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_house", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plant(folder: Path, name: str, files: dict[str, str]) -> None:
    (folder / name).mkdir()
    for file, text in ({"__init__.py": ""} | files).items():
        (folder / name / file).write_text(text)


def test_a_circle_between_files_is_found(house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    plant(tmp_path, "round_house", {
        "a.py": "from round_house import b", "b.py": "from round_house import c",
        "c.py": "def late():\n    from round_house.a import b",
    })  # fmt: skip
    found = house.circle("round_house")
    assert found[0] == found[-1]
    assert set(found) == {"round_house.a", "round_house.b", "round_house.c"}


def test_a_house_without_a_circle_is_let_pass(house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    plant(
        tmp_path, "tidy_house", {"a.py": "from tidy_house import b, c", "b.py": "from tidy_house import c", "c.py": ""}
    )
    assert house.circle("tidy_house") == []


def test_lengths_are_refused_unless_there_is_a_reason(house: ModuleType, tmp_path: Path):
    body = "    x = 0\n" * 60
    path = tmp_path / "long.py"
    path.write_text(f"def f():\n{body}def g():  # long: a table of cases\n{body}" + "\n" * 300)
    said = list(house.long_parts(path))
    assert [one.partition(": ")[2].partition(";")[0] for one in said] == ["422 lines", "f has 61 lines"]

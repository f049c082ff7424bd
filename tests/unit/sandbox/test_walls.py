"""What a sandbox sees of the host: the system's programs and libraries, and of an interpreter no more than it needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ring_async.errors import SandboxUnavailableError
from ring_async.sandbox.program import SandboxLimits
from ring_async.sandbox.walls import launcher_command


def make_prefix(prefix: Path) -> Path:
    """An interpreter at home in a folder that holds other things, too; returns its path."""
    for name in ("bin", "lib", "secrets", "share"):
        (prefix / name).mkdir(parents=True)
    interpreter = prefix / "bin" / "python3"
    interpreter.write_bytes(b"")
    return interpreter


def bound(interpreter: Path) -> list[str]:
    try:
        command = launcher_command(interpreter, (), SandboxLimits())
    except SandboxUnavailableError as missing:
        if "bwrap" in str(missing):
            pytest.skip(str(missing))
        raise
    return [source for source, _ in json.loads(command[-1])["bound"]]


def test_of_an_interpreter_its_program_and_libraries_are_in_sight_and_not_its_prefix(tmp_path: Path):
    assert bound(make_prefix(tmp_path)) == [str(tmp_path / "bin"), str(tmp_path / "lib")]


def test_of_usr_only_programs_and_libraries_are_in_sight():
    command = launcher_command(Path(sys._base_executable), (), SandboxLimits())  # type: ignore[attr-defined]
    arguments = json.loads(command[-1])["bubblewrap"]
    sources = {arguments[place + 1] for place, word in enumerate(arguments) if word == "--ro-bind"}
    assert "/usr" not in sources
    assert {"/usr/bin", "/usr/lib"} <= sources


def test_a_project_that_programs_would_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    interpreter = make_prefix(tmp_path)
    project = tmp_path / "lib" / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    with pytest.raises(SandboxUnavailableError, match="this project lies in"):
        bound(interpreter)

"""`ring-async check` on configurations that are wrong: exit code 2 and one screen that names the key and the remedy.

They run in this process, by the path that the command line takes; a few run as commands, `up` too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.bad_configurations import drawn_from_schema, problems_of
from tests.support.check_in_process import check
from tests.support.hostile_configurations import ALL, BASE, GOOD, VERIFIER_FILES

NUM_DRAWN = 300
SEED = 13


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, as paths in a configuration and `runs` are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, text in VERIFIER_FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "hostile.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_configurations_made_from_the_schema(folder: Path):
    wrong = {}
    for bad in drawn_from_schema(NUM_DRAWN, SEED):
        exit_code, output = check(write(folder, yaml.safe_dump(bad.values)))
        if found := problems_of(output, exit_code, key=bad.key, must_fail=bad.is_surely_bad):
            wrong[bad.name] = (found, output)
    assert not wrong
    assert len(drawn_from_schema(NUM_DRAWN, SEED)) == NUM_DRAWN


@pytest.mark.parametrize(("content", "said"), ALL.values(), ids=ALL.keys())
def test_configurations_written_by_hand(folder: Path, content: str | bytes, said: str):
    exit_code, output = check(write(folder, content))
    assert said in output.replace("\n", " ")
    assert problems_of(output, exit_code, must_fail=said != GOOD) == []
    assert exit_code == (0 if said == GOOD else 2)
    assert not (folder / "runs").exists()


COMMANDS = ["anchor within itself", "Latin-1", "300 unknown keys"]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("command", ["check", "up"])
def test_as_commands(folder: Path, command: str, name: str):
    content, said = ALL[name]
    words = [sys.executable, "-m", "ring_async.cli.app", command, str(write(folder, content))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert said in done.stderr
    assert problems_of(done.stdout + done.stderr, done.returncode) == []
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("name", ["folder in /proc", "verifier whose file ends the process", "band above 1"])
def test_up_refuses_what_check_refuses(folder: Path, name: str):
    content, said = ALL[name]
    exit_code, output = check(write(folder, content), command="up")
    assert said in output
    assert problems_of(output, exit_code) == []


def test_words_of_the_command_line_are_checked_like_files(folder: Path):
    path = write(folder, BASE)
    for word, said in {
        "mixture.smus=null": "command line: mixture.smus: null, but there is none to remove; did you mean sums?",
        "mixture={sums:1}": "command line: mixture.sums:1: null, but there is none to remove; a blank is missing",
        "seed=[*x]": "command line: seed: not YAML",
        "seed=&x [*x]": "command line: seed: *x stands within its own anchor",
        "seed=? [a]": "command line: seed: a key is a list or a mapping",
        "seed=\udcff": "command line: seed",
        "rollout.num=1e400": "command line: rollout.num",
    }.items():
        exit_code, output = check(path, word)
        assert said in output
        assert problems_of(output, exit_code) == []


def test_paths_that_are_no_files(folder: Path):
    for path in (folder, Path("/dev/zero"), folder / "no\x1b[31m.yaml", Path("\udcff.yaml")):
        exit_code, output = check(path)
        assert problems_of(output, exit_code) == []

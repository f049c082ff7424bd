"""Files of verifiers: kept by content, named by no path of a person's, brought to hosts that lack them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from ring_async.actors.verifier_files import bring_files, keep_file, keep_files, read_kept
from ring_async.errors import ConfigError, RefusedError
from ring_async.testing.builders import make_config
from ring_async.transport.messages import VerifierFile


class ControllerOf:
    """The controller of a run whose verifiers lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    async def request(self, message, *, timeout_s):
        self.asked.append(message.name)
        return SimpleNamespace(message=VerifierFile(read_kept(self.folder, message.name)))


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    path = tmp_path / "mine" / "strict.py"
    path.parent.mkdir()
    path.write_text("class Strict: ...\n")
    return path


def test_a_file_is_kept_by_its_content_and_other_names_stay(tmp_path, strict):
    folder = tmp_path / "verifiers"
    first = keep_file(folder, f"{strict}:Strict")
    strict.write_text("class Strict: version = 2\n")
    second = keep_file(folder, f"{strict}:Strict")
    assert first != second
    assert Path(first.removesuffix(":Strict")).read_text() == "class Strict: ...\n"
    assert keep_file(folder, second) == second
    assert keep_file(folder, "package.module:Class") == "package.module:Class"
    assert keep_file(folder, "math") == "math"


def test_parts_of_a_composite_are_kept_too(tmp_path, strict):
    use = f"{strict}:Strict"
    parts = {"parts": {"mine": {"use": use, "weight": 0.5}, "theirs": {"use": "math"}}}
    config = make_config(verifiers__exact={"use": "all_of", "options": parts})
    kept = keep_files(config, tmp_path / "verifiers").verifiers["exact"]
    assert kept.options["parts"]["theirs"] == {"use": "math"}
    assert kept.options["parts"]["mine"] == {"use": keep_file(tmp_path / "verifiers", use), "weight": 0.5}


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path, strict):
    with pytest.raises(ConfigError, match="cannot be read"):
        keep_file(tmp_path / "verifiers", "nowhere.py:Class")
    strict.write_text("#" * 600_000)
    with pytest.raises(ConfigError, match="install it as a package on every host"):
        keep_file(tmp_path / "verifiers", f"{strict}:Strict")


def test_only_verifiers_files_of_the_run_are_sent(tmp_path, strict):
    folder = tmp_path / "verifiers"
    kept = Path(keep_file(folder, f"{strict}:Strict").removesuffix(":Strict"))
    assert read_kept(folder, str(kept.relative_to(folder))) == strict.read_bytes()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "server_secret").write_text("secret")
    for name in ("../keys/server_secret", str(strict), f"{kept.parent.name}/../../mine/strict.py", "strict.py", ""):
        with pytest.raises(RefusedError, match="no verifier's file of this run"):
            read_kept(folder, name)


def test_what_a_host_lacks_is_brought_once_and_checked(tmp_path, strict):
    here = tmp_path / "run" / "verifiers"
    kept = keep_file(here, f"{strict}:Strict")
    there = tmp_path / "elsewhere"
    here.rename(there)  # this host has it no more, the controller's has
    controller = ControllerOf(there)
    options = {"parts": {"mine": {"use": kept}}}
    asyncio.run(bring_files(controller, here, "all_of", options))
    asyncio.run(bring_files(controller, here, kept, {}))
    assert len(controller.asked) == 1
    assert Path(kept.removesuffix(":Strict")).read_text() == "class Strict: ...\n"


def test_another_content_than_asked_for_is_refused(tmp_path, strict):
    here, there = tmp_path / "verifiers", tmp_path / "elsewhere"
    kept = keep_file(here, f"{strict}:Strict")
    here.rename(there)
    next(there.glob("*/*.py")).write_text("class Strict: tampered = True\n")
    with pytest.raises(ConfigError, match="has another content"):
        asyncio.run(bring_files(ControllerOf(there), here, kept, {}))
    assert not list(here.rglob("*.py"))

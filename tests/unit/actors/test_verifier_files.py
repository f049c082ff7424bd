"""Files of verifiers: kept by content, named by no path of a person's, brought to hosts that lack them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ring_async.actors.verifier_files import bring_files, read_kept
from ring_async.errors import ConfigError, RefusedError
from ring_async.transport.messages.changes import VerifierFile
from ring_async.verifiers.kept_files import keep_file


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


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path, strict):
    with pytest.raises(ConfigError, match="cannot be read"):
        keep_file("nowhere.py:Class", tmp_path / "verifiers")
    strict.write_text("#" * 600_000)
    with pytest.raises(ConfigError, match="install it as a package on every host"):
        keep_file(f"{strict}:Strict", tmp_path / "verifiers")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(ConfigError, match="it is no regular file"):
        keep_file(f"{tmp_path / 'pipe.py'}:Strict", tmp_path / "verifiers")


def test_only_verifiers_files_of_the_run_are_sent(tmp_path, strict):
    folder = tmp_path / "verifiers"
    kept = Path(keep_file(f"{strict}:Strict", folder).removesuffix(":Strict"))
    assert read_kept(folder, str(kept.relative_to(folder))) == strict.read_bytes()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "server_secret").write_text("secret")
    for name in ("../keys/server_secret", str(strict), f"{kept.parent.name}/../../mine/strict.py", "strict.py", ""):
        with pytest.raises(RefusedError, match="no verifier's file of this run"):
            read_kept(folder, name)


def test_what_a_host_lacks_is_brought_once_and_checked(tmp_path, strict):
    here = tmp_path / "run" / "verifiers"
    kept = keep_file(f"{strict}:Strict", here)
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
    kept = keep_file(f"{strict}:Strict", here)
    here.rename(there)
    next(there.glob("*/*.py")).write_text("class Strict: tampered = True\n")
    with pytest.raises(ConfigError, match="has another content"):
        asyncio.run(bring_files(ControllerOf(there), here, kept, {}))
    assert not list(here.rglob("*.py"))

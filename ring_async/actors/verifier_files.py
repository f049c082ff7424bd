"""Transfer of the files that verifiers are loaded from, to hosts that lack them.

    verifiers/<digest>/<name>.py on the controller's host ──ReadVerifierFile──▶ the same path on another host

Owns: which files the controller hands out, and the check of received files. Does not own the copies
(`verifiers.kept_files`).
Invariant: nothing outside the run's `verifiers/` is ever sent.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from ring_async.errors import ConfigError, RefusedError
from ring_async.transport.base import Outbox
from ring_async.transport.messages.changes import ReadVerifierFile, VerifierFile
from ring_async.verifiers.kept_files import digest_of, uses_in, write_kept

FETCH_TIMEOUT_S = 30.0
_NAME = re.compile(r"([0-9a-f]{16})/[^/]+\.py")


def read_kept(folder: Path, name: str) -> bytes:
    """The content of a kept file, to be sent to another host.

    Args:
        folder: the run's `verifiers/`.
        name: path of the file below it.

    Raises:
        RefusedError: the run keeps no file of this name.
    """
    if not _NAME.fullmatch(name) or not (folder / name).is_file():
        raise RefusedError(f"{name!r} is no verifier's file of this run")
    return (folder / name).read_bytes()


async def bring_files(controller: Outbox, folder: Path, use: str, options: dict[str, Any]) -> None:
    """Fetch the files that a verifier is loaded from, where this host lacks them.

    Args:
        controller: the outbox to the controller, which sends the files.
        folder: the run's `verifiers/` on this host.
        use: the verifier, as the configuration names it.
        options: of the verifier; they may name further files.

    Raises:
        PeerTimeoutError: the controller does not answer.
        RefusedError: the controller has no such file.
        ConfigError: the content that the controller sent has another digest than the file's path says.
    """
    paths = [Path(one.rpartition(":")[0]) for one in (use, *uses_in(options))]
    for path in await asyncio.to_thread(_missing, paths, folder):
        name = str(path.relative_to(folder))
        answer = (await controller.request(ReadVerifierFile(name), timeout_s=FETCH_TIMEOUT_S)).message
        assert isinstance(answer, VerifierFile)
        if digest_of(answer.content) != path.parent.name:
            raise ConfigError(f"{path}: what the controller has under this name has another content; swap it in again")
        await asyncio.to_thread(write_kept, path, answer.content)


def _missing(paths: list[Path], folder: Path) -> list[Path]:
    return [path for path in paths if path.is_relative_to(folder) and not path.exists()]

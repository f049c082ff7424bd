"""Files that verifiers are loaded from, on whichever host they are needed.

    a person's file ──keep──▶ verifiers/<digest of its content>/<name>.py ──ReadVerifierFile──▶ the same on other hosts

Owns: the copies in the run's folder, and bringing them to a host that has them not. Does not own loading
(`verifiers.registry`).
Invariants: a copy lies under the digest of its content, so it never changes and is whole or absent; nothing outside the
run's `verifiers/` is ever sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ring_async.config.schema import Config, VerifierSection
from ring_async.errors import ConfigError, RefusedError
from ring_async.transport.base import Outbox
from ring_async.transport.messages import ReadVerifierFile, VerifierFile

MAX_FILE_BYTES = 512 << 10
"""It travels in a message's header, beside other things; source code is far smaller."""
FETCH_TIMEOUT_S = 30.0
_NAME = re.compile(r"([0-9a-f]{16})/[^/]+\.py")


def keep_file(folder: Path, use: str) -> str:
    """For `path/to/file.py:Class`: the same of a copy in `folder`. Other names are returned as they are.

    Raises:
        ConfigError: the file cannot be read, or is too large to travel.
    """
    place, _, class_name = use.rpartition(":")
    if not place.endswith(".py"):
        return use
    try:
        content = Path(place).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"{place}: {len(content):,} bytes, a verifier's file may have {MAX_FILE_BYTES:,}; "
            "install it as a package on every host and name it package.module:Class"
        )
    return f"{_write(folder / _digest(content) / Path(place).name, content)}:{class_name}"


def keep_files(config: Config, folder: Path) -> Config:
    """The configuration with every verifier that is a file, parts of others too, taken from its copy in `folder`.

    Raises:
        ConfigError: as `keep_file`.
    """

    def keep(use: str) -> str:
        return keep_file(folder, use)

    verifiers = {
        name: VerifierSection(use=keep(section.use), options=_with_uses(section.options, keep))
        for name, section in config.verifiers.items()
    }
    return config.model_copy(update={"verifiers": verifiers})


def read_kept(folder: Path, name: str) -> bytes:
    """A copy's content, for another host.

    Raises:
        RefusedError: there is none of this name.
    """
    if not _NAME.fullmatch(name) or not (folder / name).is_file():
        raise RefusedError(f"{name!r} is no verifier's file of this run")
    return (folder / name).read_bytes()


async def bring_files(controller: Outbox, folder: Path, use: str, options: dict[str, Any]) -> None:
    """Have the copies that a verifier is loaded from lie in `folder` on this host too.

    Raises:
        PeerTimeoutError: the controller does not answer.
        RefusedError: it has no such file.
        ConfigError: what came is not what was asked for.
    """
    paths = [Path(one.rpartition(":")[0]) for one in (use, *_uses(options))]
    for path in await asyncio.to_thread(_missing, paths, folder):
        name = str(path.relative_to(folder))
        answer = (await controller.request(ReadVerifierFile(name), timeout_s=FETCH_TIMEOUT_S)).message
        assert isinstance(answer, VerifierFile)
        if _digest(answer.content) != path.parent.name:
            raise ConfigError(f"{path}: what the controller has under this name has another content; swap it in again")
        await asyncio.to_thread(_write, path, answer.content)


def _missing(paths: list[Path], folder: Path) -> list[Path]:
    return [path for path in paths if path.is_relative_to(folder) and not path.exists()]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write(path: Path, content: bytes) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".part")
        fresh.write_bytes(content)
        fresh.replace(path)
    return path


def _with_uses(described: Any, change: Callable[[str], str]) -> Any:
    """A verifier's options with the `use` of every part in them changed."""
    if isinstance(described, dict):
        return {
            key: change(value) if key == "use" and isinstance(value, str) else _with_uses(value, change)
            for key, value in described.items()
        }
    return [_with_uses(one, change) for one in described] if isinstance(described, list) else described


def _uses(described: Any) -> Iterator[str]:
    found: list[str] = []

    def note(use: str) -> str:
        found.append(use)
        return use

    _with_uses(described, note)
    yield from found

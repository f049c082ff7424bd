"""Copies of verifier files in the run's folder, named by their content.

    my/strict.py:Strict ──▶ runs/<name>/verifiers/<digest>/strict.py:Strict

Owns: which files are copied, and where they lie. Does not own loading them (`registry`), or bringing them to other
hosts (`actors.verifier_files`).
Invariants: a path that was kept leads to the same bytes for as long as the run's folder is there, so whoever builds the
verifier later (after a restart, a rollback, a resume) builds what was named, whatever became of the file; equal content
has an equal path, other content another. Neighbours of a file are not copied: one that imports them must be a package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ring_async.config.schema import Config, VerifierSection
from ring_async.errors import ConfigError

MAX_FILE_BYTES = 512 << 10
"""To other hosts a file travels in a message's header, beside other things; source code is far smaller."""


def keep_configured(config: Config, folder: Path) -> Config:
    """The configuration with each verifier file copied into `folder`, and named there.

    Raises:
        ConfigError: as `keep_file`.
    """
    kept = {name: _keep_section(section, folder, f"verifiers.{name}") for name, section in config.verifiers.items()}
    return config.model_copy(update={"verifiers": kept})


def keep_file(use: str, folder: Path, where: str = "") -> str:
    """For `path/to/file.py:Class`: the same class in a copy of the file; all else as it is.

    Raises:
        ConfigError: the file cannot be read, or is too large; begins with `where`.
    """
    place, _, class_name = use.rpartition(":")
    if not place.endswith(".py"):
        return use
    prefix = f"{where}: " if where else ""
    if Path(place).exists() and not Path(place).is_file():
        # A named pipe or a device may make a reader wait for ever, here the controller's loop.
        raise ConfigError(f"{prefix}{Path(place).absolute()} cannot be read: it is no regular file")
    try:
        content = Path(place).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{prefix}{Path(place).absolute()} cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"{prefix}{place}: {len(content):,} bytes, a verifier's file may have {MAX_FILE_BYTES:,}; "
            "install it as a package on every host and name it package.module:Class"
        )
    return f"{write_kept(folder / digest_of(content) / Path(place).name, content)}:{class_name}"


def keep_options(options: Mapping[str, Any], folder: Path, where: str = "") -> dict[str, Any]:
    """Options with the files of parts copied, too: a composite describes each as a mapping with `use`.

    Raises:
        ConfigError: as `keep_file`.
    """
    kept: dict[str, Any] = _change_uses(options, lambda use: keep_file(use, folder, where))
    return kept


def uses_in(options: Mapping[str, Any]) -> list[str]:
    """The `use` of every part that options describe."""
    found: list[str] = []

    def note(use: str) -> str:
        found.append(use)
        return use

    _change_uses(options, note)
    return found


def digest_of(content: bytes) -> str:
    """The name of the folder that a copy lies in."""
    return hashlib.sha256(content).hexdigest()[:16]


def write_kept(path: Path, content: bytes) -> Path:
    """Write a copy of a file at its place, whole or not at all; a copy that is there stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".part")
        fresh.write_bytes(content)
        fresh.replace(path)
    return path


def _change_uses(described: Any, change: Callable[[str], str]) -> Any:
    if isinstance(described, Mapping):
        return {
            key: change(value) if key == "use" and isinstance(value, str) else _change_uses(value, change)
            for key, value in described.items()
        }
    return [_change_uses(one, change) for one in described] if isinstance(described, list | tuple) else described


def _keep_section(section: VerifierSection, folder: Path, where: str) -> VerifierSection:
    options = keep_options(section.options, folder, where)
    return VerifierSection(use=keep_file(section.use, folder, f"{where}.use"), options=options)

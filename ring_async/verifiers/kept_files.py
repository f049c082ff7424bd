"""Copies of verifier files in the run's folder, named by their content.

    my/strict.py:Strict ──▶ runs/<name>/verifiers/<digest>/strict.py:Strict

Owns: which files are copied, and where they lie. Does not own loading them (`registry`).
Invariants: a path that was kept leads to the same bytes for as long as the run's folder is there, so whoever builds the
verifier later (after a restart, a rollback, a resume) builds what was named, whatever became of the file; equal content
has an equal path, other content another. Neighbours of a file are not copied: one that imports them must be a package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ring_async.config.schema import Config, VerifierSection
from ring_async.errors import ConfigError


def keep_configured(config: Config, folder: Path) -> Config:
    """The configuration with each verifier file copied into `folder`, and named there.

    Raises:
        ConfigError: a file cannot be read.
    """
    kept = {name: _keep_section(section, folder, f"verifiers.{name}") for name, section in config.verifiers.items()}
    return config.model_copy(update={"verifiers": kept})


def keep_file(use: str, folder: Path, where: str = "") -> str:
    """For `path/to/file.py:Class`: the same class in a copy of the file; all else as it is.

    Raises:
        ConfigError: the file cannot be read; begins with `where`.
    """
    place, _, class_name = use.rpartition(":")
    if not place.endswith(".py"):
        return use
    try:
        content = Path(place).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{f'{where}: ' if where else ''}{Path(place).absolute()} cannot be read: {error}") from error
    kept = folder / hashlib.sha256(content).hexdigest()[:16] / Path(place).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".part")
        fresh.write_bytes(content)
        fresh.replace(kept)
    return f"{kept}:{class_name}"


def keep_options(options: Mapping[str, Any], folder: Path, where: str = "") -> dict[str, Any]:
    """Options with the files of parts copied, too: a composite describes each as a mapping with `use`.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {name: _keep_parts(value, folder, where) for name, value in options.items()}


def _keep_parts(value: Any, folder: Path, where: str) -> Any:
    if isinstance(value, list | tuple):
        return [_keep_parts(one, folder, where) for one in value]
    if not isinstance(value, Mapping):
        return value
    parts = keep_options(value, folder, where)
    return parts | {"use": keep_file(parts["use"], folder, where)} if isinstance(parts.get("use"), str) else parts


def _keep_section(section: VerifierSection, folder: Path, where: str) -> VerifierSection:
    options = keep_options(section.options, folder, where)
    return VerifierSection(use=keep_file(section.use, folder, f"{where}.use"), options=options)

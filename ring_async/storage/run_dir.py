"""The layout of a run's folder, in one place.

Owns: names of files and folders under `runs/<name>/`, who may look into them, the `latest` link, small atomic JSON
writes, and `write_whole`, which leaves a file whole on a full disk, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ring_async.errors import RunError

OWNER_ONLY: Final = 0o700
IN_RUN: Final = "<run>/"
"""What a stored path inside a run's folder begins with, in place of that folder."""


class RunDir:
    """Paths of one run. Nothing is created until `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.replay = path / "replay"
        self.journal = path / "journal"
        self.checkpoints = path / "checkpoints"
        self.verifiers = path / "verifiers"
        self.trained_tokens = path / "trained_tokens"
        self.logs = path / "logs"
        self.trace_parts = path / "trace"
        self.trace = path / "trace.json"
        self.endpoints = path / "endpoints.json"
        self.keys = path / "keys"
        self.outcome = path / "outcome.json"
        self.lock = path / "lock"
        self.curves = path / "curves.png"
        self.report = path / "report.html"

    def create(self) -> None:
        """Make the folders. Only their owner may look into them: they hold prompts, responses and keys."""
        self.path.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        self.path.chmod(OWNER_ONLY)  # also that of a run which an earlier version began
        for folder in (self.replay, self.journal, self.checkpoints, self.logs, self.trace_parts):
            folder.mkdir(parents=True, exist_ok=True)

    def relative(self, value: Any) -> Any:
        """Plain data with each path inside this folder replaced by one that begins with `IN_RUN`."""
        prefixes = tuple(dict.fromkeys((f"{self.path}/", f"{self.path.absolute()}/")))

        def shorten(text: str) -> str:
            found = next((prefix for prefix in prefixes if text.startswith(prefix)), None)
            return text if found is None else IN_RUN + text.removeprefix(found)

        return _each_string(value, shorten)

    def absolute(self, value: Any) -> Any:
        """Plain data as it was before `relative`, at this folder's present place."""
        return _each_string(
            value, lambda text: f"{self.path}/{text.removeprefix(IN_RUN)}" if text.startswith(IN_RUN) else text
        )

    def point_latest(self) -> None:
        """Let `runs/latest` point here, atomically."""
        link = self.path.parent / "latest"
        fresh = self.path.parent / f".latest.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        fresh.replace(link)

    def read_endpoints(self) -> dict[str, Any]:
        """The addresses and the token that `up` wrote for clients.

        Raises:
            RunError: the run is not up.
        """
        try:
            endpoints: dict[str, Any] = json.loads(self.endpoints.read_text())
        except FileNotFoundError:
            raise RunError(
                f"{self.path}: not running (no {self.endpoints.name}); start it with: ring-async up CONFIG"
            ) from None
        return endpoints


def find_run(runs: Path, name: str | None) -> RunDir:
    """A run by name or path; None: the newest.

    Raises:
        RunError: there is no such run.
    """
    path = runs / "latest" if name is None else (Path(name) if "/" in name else runs / name)
    if not path.is_dir():
        what = "no run yet" if name is None else f"no run {name!r}"
        raise RunError(f"{runs}/: {what}; start one with: ring-async up configs/local.yaml")
    return RunDir(path.resolve())


def write_json(path: Path, value: object, *, mode: int = 0o644) -> None:
    """Write JSON so that a reader sees the old content or the new, never a part."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def write_whole(descriptor: int, data: bytes, position: int, *, is_synced: bool = False) -> None:
    """Write all of `data` at `position`, the file's end; after an error the file ends there again.

    Raises:
        OSError: the data could not be written, or the file could not be cut back.
    """
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.pwrite(descriptor, rest, position + len(data) - len(rest)) :]
        if is_synced:
            os.fdatasync(descriptor)
    except OSError:
        os.ftruncate(descriptor, position)
        raise


def _each_string(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_string(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_each_string(one, change) for one in value]
    return value


def sync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

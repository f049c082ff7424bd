"""Learner checkpoints on disk: whole or absent.

    checkpoints/<policy version>/      what the train engine wrote, and
                          manifest.json   its version, plan, and every file's size and checksum

Owns: atomic writing, choosing the newest complete one, keeping the last few. Does not own what a train engine writes.
Invariants: a folder under its final name was complete, and on disk, when it got that name; a folder that lost or
changed a byte since is never chosen.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from ring_async.errors import StorageError
from ring_async.storage.run_dir import sync_path
from ring_async.types import PolicyVersion

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_TEMPORARY = ".writing-"
_READ_BYTES = 8 << 20


class CheckpointFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a checkpoint. `checksum` is XXH3-128 in hex."""

    name: str
    size_bytes: int
    checksum: str


class Manifest(msgspec.Struct, frozen=True):
    """The description of a checkpoint: its version and plan, and its files.

    `checksum` is XXH3-128 in hex, of the description without it; empty in checkpoints of earlier versions.
    """

    policy_version: PolicyVersion
    plan_number: int
    """The last batch plan that it covers."""
    files: tuple[CheckpointFile, ...]
    format: int = 1
    checksum: str = ""

    def sealed(self) -> Manifest:
        """The same description with its checksum."""
        plain = msgspec.structs.replace(self, checksum="")
        return msgspec.structs.replace(plain, checksum=xxhash.xxh3_128_hexdigest(msgspec.json.encode(plain)))


_manifest_decoder = msgspec.json.Decoder(Manifest)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    policy_version: PolicyVersion
    plan_number: int


class CheckpointStore:
    """The checkpoints of one run. Called from one thread at a time; one process writes, any may read."""

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        """Args: `root` is the run's `checkpoints/`; `keep` complete checkpoints are kept, the newest ones."""
        self.root = root
        self._keep = max(1, keep)

    def save(self, policy_version: PolicyVersion, plan_number: int, write: Callable[[Path], None]) -> Path:
        """Write one checkpoint atomically and durably. `forget_old` removes older ones, once this one is known.

        A complete checkpoint of this very version is left as it is: equal versions are equal weights.

        Args:
            policy_version: of the weights.
            plan_number: the last batch plan trained.
            write: puts all files into the folder it is given.

        Raises:
            StorageError: the disk is full or refuses; nothing under a final name was touched.
        """
        final = self.root / str(policy_version)
        temporary = self.root / f"{_TEMPORARY}{policy_version}"
        try:
            if final.exists():
                try:
                    self.read(final)
                except StorageError as error:
                    log.warning("replacing a damaged checkpoint: %s", error)
                    shutil.rmtree(final)
                else:
                    return final
            self._remove_unfinished()
            temporary.mkdir(parents=True)
            write(temporary)
            files = tuple(_describe(path, temporary) for path in sorted(temporary.rglob("*")) if path.is_file())
            manifest = Manifest(policy_version, plan_number, files).sealed()
            (temporary / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            for path in (*temporary.rglob("*"), temporary):
                sync_path(path)
            temporary.rename(final)
            sync_path(self.root)
        except (OSError, StorageError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise StorageError(f"cannot write checkpoint {final}: {why}") from error
        return final

    def read(self, folder: Path) -> Checkpoint:
        """Check one checkpoint, every byte of it.

        Raises:
            StorageError: it has no manifest, or a file is missing, cut or changed.
        """
        manifest = _read_manifest(folder)
        for file in manifest.files:
            path = folder / file.name
            try:
                size_bytes = path.stat().st_size
                if size_bytes != file.size_bytes:
                    raise StorageError(f"{path} holds {size_bytes} bytes, its manifest says {file.size_bytes}")
                if _checksum(path) != file.checksum:
                    raise StorageError(f"{path} is not what was written: its checksum differs from the manifest's")
            except OSError as error:
                raise StorageError(f"cannot read checkpoint file {path}: {error.strerror or error}") from error
        return Checkpoint(folder, manifest.policy_version, manifest.plan_number)

    def restorable(self, wanted: Path) -> tuple[Checkpoint, list[str]]:
        """The wanted checkpoint or, if it is damaged or gone, the newest whole one; and what is wrong with others.

        Raises:
            StorageError: none is whole; says what is wrong with each.
        """
        problems: list[str] = []
        for folder in dict.fromkeys((wanted, *reversed(self._folders()))):
            try:
                return self.read(folder), problems
            except StorageError as error:
                problems.append(str(error))
        raise StorageError(f"{self.root}: no checkpoint is whole: {'; '.join(problems)}")

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, of the latest incarnation; damaged ones are passed over with a warning."""
        for folder in reversed(self._folders()):
            try:
                return self.read(folder)
            except StorageError as error:
                log.warning("passing over a damaged checkpoint: %s", error)
        return None

    def _folders(self) -> list[Path]:
        """Folders under a final name, oldest version first."""
        if not self.root.is_dir():
            return []
        versions = {_version_of(path): path for path in self.root.iterdir() if path.is_dir()}
        return [path for version, path in sorted((v, p) for v, p in versions.items() if v is not None)]

    def forget_old(self) -> None:
        """Remove all but the last `keep` checkpoints. Call this when the run's journal names the newest: before that, a
        run that dies is resumed from an older one.
        """
        for folder in self._folders()[: -self._keep]:
            # Renamed first: a crash in the middle of removal must not leave half a checkpoint under a final name.
            doomed = self.root / f"{_TEMPORARY}removed-{folder.name}"
            try:
                folder.rename(doomed)
                shutil.rmtree(doomed)
            except OSError as error:
                log.warning("cannot remove the old checkpoint %s: %s", folder, error)

    def _remove_unfinished(self) -> None:
        for path in self.root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


def _version_of(folder: Path) -> PolicyVersion | None:
    incarnation, dot, number = folder.name.partition(".")
    if dot and incarnation.isdecimal() and number.isdecimal():
        return PolicyVersion(int(incarnation), int(number))
    return None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = _manifest_decoder.decode(path.read_bytes())
    except FileNotFoundError:
        raise StorageError(f"{folder} is not a complete checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is damaged: {error}") from error
    if manifest.checksum and manifest != manifest.sealed():
        raise StorageError(f"{path} is damaged: its checksum does not hold")
    return manifest


def _describe(path: Path, root: Path) -> CheckpointFile:
    return CheckpointFile(path.relative_to(root).as_posix(), path.stat().st_size, _checksum(path))


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()

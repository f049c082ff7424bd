"""The newest tokens that the learner trained, in the run's folder: two files, of which the older one goes when the
newer is full.

Owns: the files, their size, and reading them while they are written. Does not own the record
(`records.trained_tokens`).
Invariants: what is kept is bounded, whatever the length of the run; losing it costs nothing but the view of samples, so
it is not synced, and a disk that takes no more is said once and stops nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from ring_async.records.trained_tokens import TrainedTokens

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 8 << 20
_LENGTH_BYTES = 4
_MAX_RECORD_BYTES = 1 << 20

# Made at import, like every decoder: see docs/dependencies.md, msgspec.
_decoder = msgspec.msgpack.Decoder(TrainedTokens)


class TrainedTokensFile:
    """Appends records; one process writes.

    kept = TrainedTokensFile(run_dir.trained_tokens)
    kept.append(report.tokens)
    """

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._newer, self._older = _paths(folder)
        self._max_file_bytes = max_file_bytes
        self._is_refused = False

    def append(self, records: Iterable[TrainedTokens]) -> None:
        """Append records; what the disk does not take is lost."""
        parts = [msgspec.msgpack.encode(record) for record in records]
        if not parts:
            return
        content = b"".join(len(part).to_bytes(_LENGTH_BYTES, "little") + part for part in parts)
        try:
            self._newer.parent.mkdir(exist_ok=True)
            if self._newer.exists() and self._newer.stat().st_size + len(content) > self._max_file_bytes:
                self._newer.replace(self._older)
            with self._newer.open("ab", buffering=0) as stream:
                stream.write(content)
        except OSError as error:
            if not self._is_refused:
                log.warning("ratios of single tokens are not kept: %s", error)
            self._is_refused = True


def read_trained_tokens(folder: Path, wanted: Collection[str] | None = None) -> dict[str, list[TrainedTokens]]:
    """The records by trajectory, the oldest first; of these trajectories only (None: of all)."""
    found: dict[str, list[TrainedTokens]] = {}
    newer, older = _paths(folder)
    for path in (older, newer):
        for record in _records(path):
            if wanted is None or record.trajectory_id in wanted:
                found.setdefault(record.trajectory_id, []).append(record)
    return found


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / "newer.msgpack", folder / "older.msgpack"


def _records(path: Path) -> Iterator[TrainedTokens]:
    """The whole records of a file. Behind a damaged one, the rest of the file is left out."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    position = 0
    while position + _LENGTH_BYTES <= len(content):
        length = int.from_bytes(content[position : position + _LENGTH_BYTES], "little")
        part = content[position + _LENGTH_BYTES : position + _LENGTH_BYTES + length]
        if not 0 < length <= _MAX_RECORD_BYTES or len(part) < length:
            return
        try:
            yield _decoder.decode(part)
        except msgspec.DecodeError:
            return
        position += _LENGTH_BYTES + length

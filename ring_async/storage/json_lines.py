"""A file of JSON objects, one a line, that a full disk neither breaks nor stops.

Owns: appending whole lines, and the lines that wait for room. Does not own what they say.
Invariants: readers see whole lines only, in order; an append never fails: while the disk has no room, lines wait in
memory, the newest `MAX_HELD_LINES` of them.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any, Final

from ring_async.storage.run_dir import write_whole

log = logging.getLogger(__name__)

MAX_HELD_LINES: Final = 10_000
_TAIL_BYTES: Final = 1 << 20


class JsonLines:
    """Appends one JSON object a line, at once, so that readers can follow.

        lines = JsonLines(run_dir.events)
        lines.append({"kind": "paused"})     # in the file, or held: the disk is full
        lines.flush()                        # later: writes what is held, if there is room

    Args:
        path: made if missing. A last line that was never finished (its writer died) is cut off.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = self._whole_bytes()
        self._held: deque[bytes] = deque()
        self._num_lost = 0
        self._is_in_trouble = False

    def append(self, value: dict[str, Any]) -> None:
        """Write one line, after those that are held; keep it if there is no room."""
        self._held.append(json.dumps(value, default=float).encode() + b"\n")
        if len(self._held) > MAX_HELD_LINES:
            self._held.popleft()
            self._num_lost += 1
        self.flush()

    def flush(self) -> None:
        """Write what is held, as far as there is room."""
        try:
            while self._held:
                self._write(self._held[0])
                self._held.popleft()
        except OSError as error:
            if not self._is_in_trouble:
                log.error("%s cannot be written: %s; its lines wait", self._path, error.strerror)
            self._is_in_trouble = True
            return
        if self._is_in_trouble:
            log.warning("%s is written again; %d lines were lost meanwhile", self._path, self._num_lost)
        self._is_in_trouble, self._num_lost = False, 0

    def close(self) -> None:
        self.flush()
        if self._held:
            log.error("%s: %d lines are lost: there was no room for them", self._path, len(self._held))
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        """Write one line whole, or leave the file as it was."""
        write_whole(self._descriptor, line, self._size)
        self._size += len(line)

    def _whole_bytes(self) -> int:
        """The size of the file up to the end of its last whole line; what follows is cut off."""
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, size - start, start)
        whole = start + tail.rfind(b"\n") + 1
        if whole < size and (whole > start or start == 0):
            log.warning("%s: %d bytes of a line that was never finished are cut off", self._path, size - whole)
            os.ftruncate(self._descriptor, whole)
            return whole
        return size

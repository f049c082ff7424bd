"""Leaks of a piece of code: processes, threads, file descriptors and shared memory that it left behind.

Owns: the census and the comparison; `tests/conftest.py` takes one before and one after every test.
Invariants: only what this process or its descendants made is reported, so that other programs on the machine do not
fail a test. Linux only (`/proc`).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory, not a temporary file
_HARMLESS_TARGETS = ("/dev/null", "/dev/urandom", "/dev/random", "/proc/", "/sys/", "/dev/nvidia")
_KEPT_SUFFIXES = (".ttf", ".so")
"""Files that may stay open: matplotlib keeps the fonts that it has drawn with."""
_KEPT_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""multiprocessing starts these once and keeps them until the interpreter ends."""
_KEPT_THREADS = ("TMonitor", "pydevd")


@dataclass(frozen=True, slots=True)
class Census:
    """The resources that exist at one moment. Keys identify them; values describe them for people."""

    processes: dict[int, str]
    threads: dict[int, str]
    descriptors: dict[tuple[int, str], str]
    segments: dict[tuple[str, int], str]
    """Shared memory by name and inode."""

    def since(self, before: Census) -> list[str]:
        """One line for each resource that exists now and did not `before`."""
        kinds = (
            ("process", self.processes, before.processes),
            ("thread", self.threads, before.threads),
            ("file descriptor", self.descriptors, before.descriptors),
            ("shared memory", self.segments, before.segments),
        )
        return [f"{kind} {words}" for kind, now, then in kinds for key, words in now.items() if key not in then]


def take_census() -> Census:
    """Count what this process and its descendants hold now."""
    descendants = {pid: _command(pid) for pid in _descendants(os.getpid())}
    processes = {
        pid: f"{pid}: {command}"
        for pid, command in descendants.items()
        if command and not any(kept in command for kept in _KEPT_PROCESSES)
    }
    threads = {
        thread.ident or 0: thread.name + (" (daemon)" if thread.daemon else "")
        for thread in threading.enumerate()
        if not thread.name.startswith(_KEPT_THREADS)
    }
    return Census(processes, threads, dict(_descriptors()), dict(_segments()))


def leaks_since(before: Census, *, grace_s: float = 2.0) -> list[str]:
    """The resources left over since `before`, as lines for people; empty if there are none.

    Things that are on their way out (a joined process not yet reaped, a socket the collector has not met) get
    `grace_s` to go; where nothing is left, no time is spent.
    """
    leaks = take_census().since(before)
    deadline_s = time.monotonic() + grace_s
    while leaks and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.02)
        leaks = take_census().since(before)
    return [leak for leak in leaks if not _is_foreign_segment(leak)]


def _descendants(pid: int) -> Iterator[int]:
    """Children, their children, and so on; zombies too."""
    for task in _entries(Path(f"/proc/{pid}/task")):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _command(pid: int) -> str:
    """What a process runs; empty if it is gone. The command line is empty for a moment in `exec`, and for zombies."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        name, state = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")[::2]
    except OSError:
        return ""
    return f"({name}, ended but not waited for)" if state.startswith("Z") else words or f"({name})"


def _descriptors() -> Iterator[tuple[tuple[int, str], str]]:
    for entry in _entries(Path("/proc/self/fd")):
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the listing's own descriptor, closed by now
        if not target.startswith(_HARMLESS_TARGETS) and not target.endswith(_KEPT_SUFFIXES):
            yield (int(entry.name), target), f"{entry.name}: {target}"


def _segments() -> Iterator[tuple[tuple[str, int], str]]:
    for path in _entries(_SHARED_MEMORY):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_uid == os.getuid():
            yield (path.name, status.st_ino), f"{path}: {status.st_size} bytes"


def _is_foreign_segment(leak: str) -> bool:
    """Whether a segment belongs to a living process that is none of ours: it has it open or mapped."""
    if not leak.startswith("shared memory "):
        return False
    path = leak.removeprefix("shared memory ").rpartition(": ")[0]
    ours = {os.getpid(), *_descendants(os.getpid())}
    pids = (int(entry.name) for entry in _entries(Path("/proc")) if entry.name.isdigit())
    return any(_holds(pid, path) for pid in pids if pid not in ours)


def _holds(pid: int, path: str) -> bool:
    try:
        if path in Path(f"/proc/{pid}/maps").read_text():
            return True
        return any(str(entry.readlink()) == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # gone by now, or another user's


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []

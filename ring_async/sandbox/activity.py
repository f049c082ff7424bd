"""What the processes of a sandbox are doing, read from outside through /proc.

Owns: one look at a process and its descendants. Does not own: what follows from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WANTS_PROCESSOR = frozenset("RD")
"""States of a thread that runs, waits for a processor, or waits for the kernel."""


@dataclass(frozen=True, slots=True)
class Activity:
    """One look at a sandbox.

    Attributes:
        resident_bytes: of all its processes, shared pages counted once per process.
        cpu_s: CPU time of the processes that the harness started, and of their children that ended.
        is_idle: nothing in it wants a processor: it sleeps, or waits for what will not come.
    """

    resident_bytes: int
    cpu_s: float
    is_idle: bool


def look_at(pid: int) -> Activity:
    """The activity of `pid`, which is bubblewrap, its child, which is the harness, and all below it."""
    resident, ticks, is_idle = 0, 0, True
    for process, depth in _tree(pid):
        try:
            resident += int((process / "statm").read_text().split()[1]) * _PAGE_BYTES
            if depth == 0:
                continue
            is_idle = is_idle and not any(_state(thread) in _WANTS_PROCESSOR for thread in (process / "task").iterdir())
            if depth > 1:
                ticks += sum(map(int, _fields(process)[11:15]))
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
    return Activity(resident, ticks / _TICKS_PER_S, is_idle)


def _tree(pid: int) -> Iterator[tuple[Path, int]]:
    """Folders in /proc of a process and its descendants, with their depth below it."""
    pending = [(pid, 0)]
    while pending:
        current, depth = pending.pop()
        process = Path(f"/proc/{current}")
        yield process, depth
        try:
            for thread in (process / "task").iterdir():
                pending += [(int(child), depth + 1) for child in (thread / "children").read_text().split()]
        except OSError:
            continue


def _state(thread: Path) -> str:
    return _fields(thread)[0]


def _fields(process: Path) -> list[str]:
    """Fields of `stat` from the state on: the name before it may hold anything."""
    return (process / "stat").read_text().rpartition(")")[2].split()

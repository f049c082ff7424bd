"""What is run in a sandbox, within which limits, and how a run ended.

Owns: the nouns that the pool, its sessions and their callers share. Does not own: running anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["python", "cpp"]
Status = Literal["ok", "error", "signal", "cpu", "wall", "output", "memory"]
"""How one run ended: exit code 0, another exit code, killed by a signal, or by one of the limits."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a program may use. Times are seconds, per test.

    Args:
        cpu_s: CPU time of one process.
        wall_s: CPU time and idle time together. Time that a program spends waiting for a processor does not count: a
            busy machine fails nobody.
        memory_bytes: address space of one process, and resident memory of the whole sandbox.
        disk_bytes: of the tmpfs at /tmp.
        max_files: files and folders at /tmp: each takes memory of the kernel that `disk_bytes` does not count.
        output_bytes: standard output, standard error, returned value, each.
        max_processes: processes and threads at once.
        compile_s: CPU time of the compiler.
        stack_bytes: of a process's main thread.
    """

    cpu_s: float = 4.0
    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    disk_bytes: int = 32 << 20
    max_files: int = 4_096
    output_bytes: int = 1 << 20
    max_processes: int = 16
    compile_s: float = 10.0
    stack_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """Source code to run."""

    source: str
    language: Language = "python"


@dataclass(frozen=True, slots=True)
class Call:
    """A function to call: `solve` or `Solution.solve`, with plain data."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """How one run went.

    Attributes:
        status: how it ended.
        exit_code: of the program; the negative number of a signal that ended it.
        stdout: what it printed.
        stderr: the last 4 KiB of its standard error.
        value: JSON text of a call's return value. Where that is null, a second line holds the first argument as the
            call left it, for functions that work in place.
        cpu_s: CPU time.
        wall_s: time on the clock, for reports; it decides nothing.
        own_s: CPU time, and time in which nothing of the program wanted a processor.
    """

    status: Status
    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    value: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    own_s: float = 0.0


class RefusedProgramError(Exception):
    """The compiler refused the program; the message is its output."""

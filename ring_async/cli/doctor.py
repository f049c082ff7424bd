"""`ring-async doctor`: can this machine run ring-async?

Owns: what is examined, and the advice for what is missing. Starts nothing that stays; changes nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import resource
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import typer
from rich.table import Table
from rich.text import Text

from ring_async.cli.options import AsJson, Runs, out
from ring_async.errors import VerifierError

_MIN_DISK_BYTES = 2 << 30
_MIN_MEMORY_BYTES = 3 << 30
_MIN_SHM_BYTES = 128 << 20
_MIN_FILES = 1024
_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "9p", "afs"}


class Finding(NamedTuple):
    """One line of the result: what was examined, whether it is fine, what was found, and the remedy."""

    name: str
    is_ok: bool
    detail: str
    remedy: str = ""


def doctor(runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Check this machine: system packages, sandbox, ports, disk, memory, torch, GPU, Ray. Exit code 1 on a problem.

    [bold]Examples[/bold]

      ring-async doctor
      ring-async doctor --runs /data/runs
      ring-async doctor --json | jq '.[] | select(.is_ok | not)'
    """
    findings = examine(runs)
    if as_json:
        out.print_plain([finding._asdict() for finding in findings])
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for name, is_ok, detail, remedy in findings:
            shown = Text(detail)
            if not is_ok:
                shown.append(f"\n→ {remedy}", style="yellow")
            table.add_row(Text("ok", "green") if is_ok else Text("problem", "red"), name, shown)
        out.print(table)
    raise typer.Exit(0 if all(finding.is_ok for finding in findings) else 1)


def examine(runs: Path) -> list[Finding]:
    """All findings, quick ones first. An examination that itself fails is a finding, never a traceback."""
    looks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("compiler", _compiler),
        ("cores", _cores),
        ("memory", _memory),
        ("open files", _open_files),
        ("disk", lambda: _disk(runs)),
        ("shared memory", _shared_memory),
        ("ports", _ports),
        ("sandbox", _sandbox),
        ("torch", lambda: _package("torch")),
        ("gpu", _gpu),
        ("ray", lambda: _package("ray")),
    )
    findings = []
    for name, look in looks:
        try:
            findings.append(look())
        except Exception as error:
            findings.append(Finding(name, False, f"could not be examined: {error!r}", "see the message"))
    return findings


def _python() -> Finding:
    number = sys.version.split()[0]
    return Finding("python", sys.version_info >= (3, 11), number, "use Python 3.11 or newer")


def _compiler() -> Finding:
    """Look for a C compiler: two puzzle libraries of reasoning-gym build from source."""
    compiler = shutil.which("cc")
    has_headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()
    detail = f"{compiler or 'no cc'}, Python's headers {'found' if has_headers else 'missing'}"
    return Finding("compiler", bool(compiler and has_headers), detail, "apt-get install gcc libc6-dev python3-dev")


def _cores() -> Finding:
    num = len(os.sched_getaffinity(0))
    return Finding("cores", num >= 2, f"{num}", "two are the least for which local.yaml is made; it is slow on one")


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    remedy = f"{_gib(_MIN_MEMORY_BYTES)} are needed for local.yaml; end other programs"
    return Finding("memory", free >= _MIN_MEMORY_BYTES, f"{_gib(free)} available", remedy)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding("open files", soft >= _MIN_FILES, f"{soft} allowed", f"ulimit -n {min(hard, 65_536)}")


def _disk(runs: Path) -> Finding:
    there = runs.absolute()
    while not there.exists():
        there = there.parent
    free, kind = shutil.disk_usage(there).free, _filesystem(there)
    detail = f"{_gib(free)} free in {there} ({kind})"
    if not os.access(there, os.W_OK):
        return Finding("disk", False, f"{detail}, not writable", "choose another folder: --runs, or run.dir=…")
    if kind in _NETWORK_FILESYSTEMS:
        return Finding("disk", False, detail, "the replay store needs a local disk: --runs, or run.dir=…")
    return Finding(
        "disk", free >= _MIN_DISK_BYTES, detail, f"make {_gib(_MIN_DISK_BYTES)} free, or lower map_size_bytes"
    )


def _filesystem(path: Path) -> str:
    """The type of the filesystem that a path lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    fitting = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point.replace("\\040", " "))]
    return max(fitting, default=(0, "unknown"))[1]


def _shared_memory() -> Finding:
    """Measure /dev/shm, which Ray's object store needs. It is small: weights travel through anonymous memory."""
    free = shutil.disk_usage("/dev/shm").free  # noqa: S108
    remedy = "mount more: docker run --shm-size=1g"
    return Finding("shared memory", free >= _MIN_SHM_BYTES, f"{free >> 20} MiB free in /dev/shm", remedy)


def _ports() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname(), 2.0):
            return Finding("ports", True, "loopback accepts connections")
    except OSError as error:
        return Finding("ports", False, str(error), "the fleet talks over loopback; allow it (firewall, container)")


def _sandbox() -> Finding:
    from ring_async.sandbox.pool import SandboxPool

    try:
        SandboxPool(num_slots=1).close()
    except VerifierError as error:
        remedy = "without it verifiers of code refuse to judge; all others work. apt-get install bubblewrap"
        return Finding("sandbox", False, str(error), remedy)
    return Finding("sandbox", True, "a bubblewrap sandbox starts")


def _package(name: str) -> Finding:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken build may raise anything
        return Finding(name, False, repr(error), f"pip install -c constraints.txt {name}, or: make setup")
    return Finding(name, True, importlib.metadata.version(name))


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        has_driver = Path("/proc/driver/nvidia/version").exists()
        remedy = "there is a driver, but this torch finds no GPU through it: install a CUDA build of torch"
        return Finding("gpu", not has_driver, "none: engines and learner run on the CPU", remedy)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("gpu", True, ", ".join(names))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"

"""What a sandbox looks like: bubblewrap's arguments, and the launcher's command.

Owns: which files are in sight, which namespaces there are, the environment. Does not own: limits on a run (`runner`),
or the system call filter (`seccomp`).
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ring_async.errors import SandboxUnavailableError
from ring_async.sandbox import seccomp
from ring_async.sandbox.program import SandboxLimits

_PACKAGE_ROOT = str(Path(__file__).parents[2])
PACKAGES_FOLDER = "/packages"
STDIN_FILE = "/tmp/.stdin"  # noqa: S108 - in the sandbox's own tmpfs


def launcher_command(python: Path | None, packages: Sequence[str], limits: SandboxLimits) -> list[str]:
    """The launcher's command.

    Args:
        python: an interpreter outside any virtual environment; None: the one this process runs on.
        packages: names of packages of this process that programs may import; those that are not installed are left
            out. None with an interpreter of one's own: they were built for this one.
        limits: of every sandbox.

    Raises:
        SandboxUnavailableError: bubblewrap is missing, or there is no filter for this processor.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxUnavailableError(
            "model-written code runs only in a bubblewrap sandbox, and there is no `bwrap` here; install the system "
            "package `bubblewrap` (apt-get install bubblewrap, dnf install bubblewrap)"
        )
    try:
        seccomp_filter = seccomp.sandbox_filter()
    except seccomp.UnsupportedMachineError as error:
        raise SandboxUnavailableError(error.strerror or str(error)) from error
    interpreter = (python or Path(sys._base_executable)).resolve()  # type: ignore[attr-defined]
    bound = [(folder, str(folder)) for folder in _interpreter_folders(interpreter)]
    _refuse_in_sight(Path.cwd(), [*_system_folders(), *(folder for folder, _ in bound)])
    bound += [] if python else [(path, f"{PACKAGES_FOLDER}/{path.name}") for path in _package_folders(packages)]
    description = {
        "bubblewrap": [bubblewrap, *_bubblewrap_arguments(limits)],
        "command": ["--remount-ro", "/", "--", str(interpreter), "-s", "-P", "-S", "-B", "/runner.pyc"],
        "bound": [[str(source), target] for source, target in bound],
        "runner": str(Path(__file__).with_name("runner.py")),
        "harness": str(Path(__file__).with_name("harness.py")),
        "seccomp": seccomp_filter.hex(),
    }
    start = f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from ring_async.sandbox import launcher as l"
    return [str(interpreter), "-I", "-S", "-B", "-c", f"{start}; l.main()", json.dumps(description)]


def _system_folders() -> Iterator[Path]:
    """What the system's programs and libraries need of /usr; what else lies there may be anybody's."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include", "share"):
        path = Path("/usr", name)
        if path.is_dir() and not path.is_symlink():
            yield path


def _interpreter_folders(interpreter: Path) -> Iterator[Path]:
    """What an interpreter needs besides the system: its program and its libraries, never its whole prefix, which may
    be somebody's home.
    """
    prefix = interpreter.parents[1]
    for folder in (interpreter.parent, prefix / "lib", prefix / "lib64"):
        is_of_system = any(folder.is_relative_to(path) for path in _system_folders())
        if folder.is_dir() and not folder.is_symlink() and not is_of_system:
            yield folder


def _refuse_in_sight(place: Path, folders: Sequence[Path]) -> None:
    """Refuse to work from a place that programs would see.

    Raises:
        SandboxUnavailableError: the place lies in one of the folders.
    """
    for folder in folders:
        if place.resolve().is_relative_to(folder.resolve()):
            raise SandboxUnavailableError(
                f"this project lies in {folder}, which model-written programs can read: runs and data would lie open "
                "to them; move it, or use an interpreter that lies elsewhere"
            )


def _package_folders(packages: Sequence[str]) -> Iterator[Path]:
    """Where packages lie, with the shared libraries that wheels keep beside them."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            yield Path(place)
            libraries = Path(place).with_name(f"{name}.libs")
            if libraries.is_dir():
                yield libraries


def _bubblewrap_arguments(limits: SandboxLimits) -> list[str]:
    """The walls. The environment fixes the seed of `hash`, so that a program's output repeats."""
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    arguments += ["--as-pid-1", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONHASHSEED": "0"}  # noqa: S108
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    arguments += ["--clearenv"]
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    for path in _system_folders():
        arguments += ["--ro-bind", str(path), str(path)]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", name, name]
    for name in ("null", "zero", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in ("/dev/stdin", "/dev/fd/0"):
        arguments += ["--symlink", STDIN_FILE, name]
    return [*arguments, "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]  # noqa: S108

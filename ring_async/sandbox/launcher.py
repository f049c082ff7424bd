"""The small process that turns its own forks into sandboxes by executing bubblewrap.

Owns: dropping root, making the interpreter reachable without root, handing over the filter and the runner. Does not
own: what the sandbox looks like (`walls` composes bubblewrap's arguments). Run by path with a JSON description and a
link, see `spawner`. Standard library only.

When started by root it gives that up before bubblewrap runs: root of the initial user namespace is exempt from the
limit on processes, and a sandboxed program should not be root anywhere. The interpreter and packages may lie where only
root can look (`/root/.pyenv`), so root first binds them to readable places in a mount namespace of this process alone.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import marshal
import os
import socket
import sys
from pathlib import Path

from ring_async.sandbox.spawner import serve

UNPRIVILEGED_ID = 64_321
_NEW_MOUNT_NAMESPACE = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_STAGE = "/tmp/bound"  # noqa: S108 - on a tmpfs in a mount namespace of this process alone
_MAX_PIPE_BYTES = 60_000


def main() -> None:
    """Prepare, then serve until the client is gone."""
    description = json.loads(sys.argv[1])
    link = socket.socket(fileno=int(sys.argv[2]))
    seccomp = bytes.fromhex(description["seccomp"])
    runner = _compiled(Path(description["runner"]), Path(description["harness"]))
    is_root = os.geteuid() == 0
    bound: list[list[str]] = description["bound"]
    try:
        sources = _readable_copies([source for source, _ in bound]) if is_root else [source for source, _ in bound]
    except OSError as error:
        link.send(json.dumps({"error": str(error)}).encode())
        return
    before: list[str] = description["bubblewrap"]
    for source, (_, target) in zip(sources, bound, strict=True):
        before += ["--ro-bind", source, target]
    after = description["command"]

    def become(descriptors: list[int]) -> None:
        connection, errors = descriptors
        for source, target in ((connection, 0), (connection, 1), (errors, 2)):
            os.dup2(source, target)
        filter_end, runner_end = _pipe_with(seccomp), _pipe_with(runner)
        if is_root:
            os.setgroups([])
            os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        for descriptor in (filter_end, runner_end):
            os.set_inheritable(descriptor, True)
        middle = ["--seccomp", str(filter_end), "--ro-bind-data", str(runner_end), "/runner.pyc"]
        os.execv(before[0], [*before, *middle, *after])  # noqa: S606

    serve(link, become)


def _compiled(runner: Path, harness: Path) -> bytes:
    """The runner as a .pyc that holds the harness, so that no sandbox compiles either again."""
    inner = marshal.dumps(compile(harness.read_bytes(), harness.name, "exec", dont_inherit=True))
    source = runner.read_text(encoding="utf-8").replace('_HARNESS_CODE = b""', f"_HARNESS_CODE = {inner!r}", 1)
    code = compile(source, runner.name, "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + bytes(12)
    content = header + marshal.dumps(code)
    if len(content) > _MAX_PIPE_BYTES:
        raise ValueError(f"{runner} is {len(content)} bytes compiled; a pipe holds {_MAX_PIPE_BYTES}")
    return content


def _pipe_with(content: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader


def _readable_copies(sources: list[str]) -> list[str]:
    """Bind folders to places that every user can reach, seen by this process and its children alone.

    Returns:
        The places, in the order of the folders.

    Raises:
        OSError: root without the right to mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(outcome: int, what: str) -> None:
        if outcome != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}; run as a user who is not root")

    call(libc.unshare(_NEW_MOUNT_NAMESPACE), "unsharing the mount namespace")
    call(libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None), "making mounts private")
    held = [os.open(source, os.O_PATH) for source in sources]  # in the new namespace, before the tmpfs can cover them
    call(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"mode=0755,size=64k"), "mounting a tmpfs")
    places = []
    for index, descriptor in enumerate(held):
        place = Path(f"{_STAGE}{index}")
        place.mkdir()
        source = f"/proc/self/fd/{descriptor}".encode()
        call(libc.mount(source, str(place).encode(), None, _BIND, None), f"binding {sources[index]}")
        os.close(descriptor)
        places.append(str(place))
    return places


if __name__ == "__main__":
    main()

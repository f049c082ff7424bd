"""The lock of a run: one launcher at a time.

Owns: `lock` in the run's folder, held with `flock` for as long as its holder lives. Does not own what a launcher does.
Invariants: nothing of a run's folder is changed by a launcher that does not hold the lock. The lock goes with its
process, however that ends, so it is never stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ring_async.errors import RunError
from ring_async.storage.run_dir import RunDir


@contextlib.contextmanager
def hold_run(run_dir: RunDir) -> Iterator[None]:
    """Hold a run for this process alone, from before its start until after its end.

    Raises:
        RunError: another process holds it; the message names the process.
    """
    run_dir.path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name, holder = run_dir.path.name, holder_of(run_dir)
            raise RunError(
                f"{name} is up already, or starting (process {holder}); see: ring-async status --run {name}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder_of(run_dir: RunDir) -> int | None:
    """The process that holds the run, or held it last; None if none ever did."""
    try:
        return int(run_dir.lock.read_text() or 0) or None
    except FileNotFoundError:
        return None

"""A disk without room, as the kernel gives it: a limit on the size of files that this process writes."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `num_bytes`: a write is cut there, and the next one fails (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

"""Time, in one place.

`monotonic_s` is for durations and deadlines inside asyncio code: it follows the running loop's clock, so that the
virtual clock of `ring_async.testing` moves it. `wall_s` is for records that people read.
"""

from __future__ import annotations

import time


def monotonic_s() -> float:
    """Seconds of the running event loop's clock, else of the machine's monotonic clock."""
    import asyncio

    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def wall_s() -> float:
    """Seconds since the epoch."""
    return time.time()


def seconds_since(start: float) -> float:
    """Seconds since a reading of `time.perf_counter`."""
    return time.perf_counter() - start

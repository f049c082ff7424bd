"""How long an actor does nothing, by what it waits for, though several of its tasks run at once.

Owns: the account. Does not own the counter, nor the names of waits (`records.figures.WaitCause`).
Invariant: every second counts once: as work while any task works, else under the cause of the task that has waited
longest, else under the cause of an actor without tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import Counter

from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import WaitCause


class IdleMeter:
    """Counts the idle seconds of one actor.

        idle = IdleMeter(metrics.reward_waiting_seconds, otherwise=WaitCause.GROUP)
        with idle.working():             # this task judges: nothing is counted
            ...
        with idle.waiting(WaitCause.COMMIT):
            ...                          # counted as `commit`, unless another task judges meanwhile
        idle.flush()                     # a wait that still lasts is counted up to now

    Args:
        counter: with the label `cause`.
        otherwise: the cause where no task works or waits; `NONE` counts nothing then.
    """

    def __init__(self, counter: Counter, otherwise: WaitCause = WaitCause.NONE) -> None:
        self._counter = counter
        self._otherwise = otherwise
        self._num_working = 0
        self._waits: dict[object, WaitCause] = {}
        self._since_s: float | None = None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        self.flush()
        self._num_working += 1
        try:
            yield
        finally:
            self.flush()
            self._num_working -= 1

    @contextlib.contextmanager
    def waiting(self, cause: WaitCause) -> Iterator[None]:
        self.flush()
        key = object()
        self._waits[key] = cause
        try:
            yield
        finally:
            self.flush()
            del self._waits[key]

    def flush(self) -> None:
        """Count the time since the last call; the first call only starts the clock."""
        now_s = monotonic_s()
        since_s, self._since_s = self._since_s, now_s
        cause = next(iter(self._waits.values()), self._otherwise)
        if since_s is None or self._num_working or cause == WaitCause.NONE:
            return
        self._counter.labels(cause=cause).inc(max(0.0, now_s - since_s))

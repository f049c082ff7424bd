"""An event loop whose time jumps: when nobody can go on, the clock moves to the next timer.

Owns: the loop and `run_virtual`. Tests never sleep, run an hour of waits in milliseconds, and are deterministic.
Invariants: time moves only when no callback is ready; a program in which nothing can ever become ready again ends in
`DeadlockError` naming every pending task and where it waits, instead of hanging.

Rejected: patching `asyncio.sleep` (it misses `timeout`, `call_later` and library code). Work given to an executor
(`asyncio.to_thread`) runs at once, in the loop's own thread, and takes no virtual time: threads would bring their order
of finishing into the test. Hence such work must not wait for the loop. Sockets don't mix with a clock that jumps: use
the channels of `transport.memory`.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(AssertionError):
    """Nothing was ready, no timer was set: these tasks would have waited for ever."""


class VirtualTimeLimitError(AssertionError):
    """The program still ran when its virtual time was over: usually heartbeats around a task that is stuck."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what the loop would have slept is added to its clock."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            if timeout is None:
                raise DeadlockError("nothing can become ready any more; waiting are:\n" + pending_tasks(self.loop))
            self.loop.jump(timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """The loop. `time()` starts at `start_s` and is seconds of the virtual clock.

    Args:
        start_s: what the clock shows first.
        limit_s: how much virtual time the program may use.
    """

    def __init__(self, *, start_s: float = 0.0, limit_s: float = math.inf) -> None:
        self._virtual_s = start_s
        self._end_s = start_s + limit_s
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._follow_resolution()

    def time(self) -> float:
        return self._virtual_s

    def jump(self, seconds: float) -> None:
        """Move the clock on."""
        # At large times a small step can vanish in rounding; the clock must move, or the loop would spin for ever.
        self._virtual_s = max(self._virtual_s + seconds, math.nextafter(self._virtual_s, math.inf))
        self._follow_resolution()
        if self._virtual_s > self._end_s:
            limit_s, self._end_s = self._end_s, math.inf  # the tasks' own clean-up may take time again
            raise VirtualTimeLimitError(f"still running at {limit_s:g} s of virtual time:\n{pending_tasks(self)}")

    def _follow_resolution(self) -> None:
        """Let a timer count as due within the clock's own rounding, which grows with the time it shows."""
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._virtual_s))

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run `func` now; the future is done when this returns."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # handed to whoever awaits it, as an executor does
            future.set_exception(error)
        return future


def run_virtual(main: Coroutine[Any, Any, T], *, start_s: float = 0.0, limit_s: float = 86_400.0) -> T:
    """`asyncio.run` under the virtual clock.

    Raises:
        DeadlockError: nothing could ever become ready again; lists the pending tasks.
        VirtualTimeLimitError: the program used more than `limit_s` of virtual time.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(start_s=start_s, limit_s=limit_s)) as runner:
        return runner.run(main)


def pending_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """One line for each unfinished task: its name, and the line of code it waits in."""
    lines = []
    for task in asyncio.all_tasks(loop):
        frames = task.get_stack()
        where = "not started"
        if frames:
            code, line = frames[-1].f_code, frames[-1].f_lineno
            where = f"{code.co_qualname} at {code.co_filename}:{line}"
        lines.append(f"  {task.get_name()}: {_coroutine_name(task)} waits in {where}")
    return "\n".join(sorted(lines)) or "  (no task)"


def _coroutine_name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", task.get_coro()))

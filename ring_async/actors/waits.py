"""Waits of actors: every wait has a name and an end.

Owns: the register of an actor's present waits, and the ways in which actors wait for peers and for their own tasks.
Does not own the deadlines: the callers choose them.
Invariants: a wait that passes its deadline ends in an error that says who waited for whom. A wait for a peer that may
be away for long (for a reward actor, for a batch) has no deadline of its own: it goes on in sight, since each heartbeat
names the longest wait, and the controller decides whether the run can go on (`core.fleet.batch_watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ring_async.clock import monotonic_s
from ring_async.core.fleet.states import WaitCause
from ring_async.errors import (
    ActorFailedError,
    PeerGoneError,
    PeerTimeoutError,
    RefusedError,
    StorageError,
    TransportError,
)

T = TypeVar("T")

ASK_AGAIN_S = 0.1
"""Pause before a question that was not answered is asked again."""

STORAGE_RETRY_S = 1.0
"""Pause before something that met a full disk is tried again."""


@dataclass(slots=True)
class Wait:
    """One wait. `whom` may be made more precise while the wait goes on."""

    whom: str
    since_s: float
    cause: WaitCause = WaitCause.OTHER


@dataclass(slots=True)
class Waits:
    """The present waits of an actor, for `status` and for the error when a deadline passes.

    async with waits.on("a batch from replay-0", deadline_s=60.0, cause=WaitCause.BATCH):
        ...                              # meanwhile waits.longest() is ("a batch from replay-0", 12.3)
    """

    actor_id: str
    _current: list[Wait] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def on(
        self, whom: str, deadline_s: float | None = None, cause: WaitCause = WaitCause.OTHER
    ) -> AsyncIterator[Wait]:
        """Register the block as a wait for `whom`, and end it after `deadline_s` at most; None: it may go on for ever.

        Raises:
            ActorFailedError: the deadline passed; the message says who waited for whom.
        """
        wait = Wait(whom, monotonic_s(), cause)
        self._current.append(wait)
        limit = asyncio.timeout(deadline_s)
        try:
            async with limit:
                yield wait
        except TimeoutError:
            if not limit.expired():
                raise
            raise ActorFailedError(f"{self.actor_id} waited {deadline_s:.0f} s for {wait.whom}") from None
        finally:
            self._current = [one for one in self._current if one is not wait]

    async def for_space(self, error: StorageError) -> None:
        """Wait a moment, in sight, before what met a full disk is tried again."""
        async with self.on(f"disk space: {error}", cause=WaitCause.DISK):
            await asyncio.sleep(STORAGE_RETRY_S)

    def longest(self) -> tuple[str, float]:
        """The longest of the present waits, and its seconds; empty and 0 when there is none.

        A wait for the disk goes first: nobody in the fleet can end it, and the other waits follow from it.
        """
        if not self._current:
            return "", 0.0
        longest = self._longest()
        return longest.whom, monotonic_s() - longest.since_s

    @property
    def cause(self) -> WaitCause:
        """The cause of the wait that `longest` names; `NONE` when there is none."""
        return self._longest().cause if self._current else WaitCause.NONE

    def _longest(self) -> Wait:
        return min(self._current, key=lambda wait: (wait.cause != WaitCause.DISK, wait.since_s))


async def ask_until_answered(ask: Callable[[], Awaitable[T]], *, is_gone: Callable[[], bool] = lambda: False) -> T:
    """Ask a peer the same question again and again until it answers.

    Args:
        ask: asks once; raises `PeerTimeoutError` if no answer came in time.
        is_gone: whether the peer has left the fleet, so that no answer will come. By default it never has: put
            the call into a wait with a deadline.

    Raises:
        RefusedError: the peer refused.
        PeerGoneError: the peer left before it answered.
    """
    while True:
        try:
            return await ask()
        except RefusedError:
            raise
        except TransportError as error:
            if is_gone():
                raise PeerGoneError(f"the peer left before it answered: {error}") from error
            if not isinstance(error, PeerTimeoutError):
                raise
        await asyncio.sleep(ASK_AGAIN_S)


async def finish_or_cancel(tasks: Iterable[asyncio.Task[None]], timeout_s: float) -> None:
    """Wait up to the given time for tasks to finish, then cancel the others."""
    if not (waiting := list(tasks)):
        return
    _, late = await asyncio.wait(waiting, timeout=max(0.0, timeout_s))
    for task in late:
        task.cancel()


async def until_stopped(stopping: asyncio.Event, *work: asyncio.Task[None]) -> None:
    """Run long-lived tasks until `stopping` is set, then cancel them; the error of a task that fails is raised here."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        done, _ = await asyncio.wait([stop, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()
    finally:
        for task in (stop, *work):
            task.cancel()
        await asyncio.gather(stop, *work, return_exceptions=True)

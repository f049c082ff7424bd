"""The stream of frames to everybody who watches the page.

    Frames.news ──every EVERY_S, while somebody watches──▶ a queue for each viewer ──▶ server-sent events

Owns: who watches, and the pace. Does not own what a frame says (`frames`).
Invariants: nothing is computed while nobody watches; a frame is made once for all viewers; a viewer who does not keep
up is let go, and its browser begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ring_async.errors import RefusedError
from ring_async.monitoring.live.frames import Frames, Watched
from ring_async.monitoring.report.rows import read_steps

EVERY_S = 2.0
MAX_VIEWERS = 32
MAX_BEHIND = 8
"""Frames that wait for one viewer."""


class Feed:
    """The viewers of one run.

    async for frame in feed.watch():     # bytes: the whole, then the news
        ...
    """

    def __init__(self, run: Watched, *, every_s: float = EVERY_S) -> None:
        self._run = run
        self._frames = Frames(run)
        self._every_s = every_s
        self._viewers: set[asyncio.Queue[bytes | None]] = set()
        self._telling: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raise `RefusedError` if as many watch as may."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise RefusedError(f"{MAX_VIEWERS} pages watch this run already; close one")

    async def watch(self) -> AsyncIterator[bytes]:
        """Consumes frames / produces them for one viewer / waits for the next / freed by time; ends if it lags."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_BEHIND)
        self._viewers.add(queue)
        if self._telling is None:
            self._frames.news()  # what was new so far is part of the whole
            self._telling = asyncio.create_task(self._tell(), name="page-feed")
        try:
            yield self._frames.whole(await asyncio.to_thread(read_steps, self._run.run_dir.path))
            while (frame := await queue.get()) is not None:
                yield frame
        finally:
            self._viewers.discard(queue)
            if not self._viewers and self._telling is not None:
                self._telling.cancel()
                self._telling = None

    async def _tell(self) -> None:
        """Consumes the run's state / produces frames / waits for time / freed by time; ends with the last viewer."""
        while True:
            await asyncio.sleep(self._every_s)
            frame = self._frames.news()
            for queue in list(self._viewers):
                if queue.full():
                    self._viewers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(frame)

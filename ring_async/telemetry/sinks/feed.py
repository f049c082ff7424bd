"""Feeds sinks from a thread of its own, so that none can hold up the controller.

    RunLog ──step, evaluation──▶ [queue] ──thread──▶ every sink

Owns: the queue, the thread, and what happens to a sink that fails. Does not own the sinks.
Invariants: `step` and `evaluation` never block and never raise; a full queue drops the newest and counts it; a sink
that raises is given up, and this is said once; `close` waits a bounded time.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from ring_async.records.steps import EvaluationRecord, StepRecord
from ring_async.telemetry.sinks.base import Sink, evaluation_figures, step_figures

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_QUEUED = 1000
CLOSE_S = 8.0
"""A service may be slow to take the last figures; the run's end waits no longer."""


class SinkFeed:
    """All sinks of one run.

        feed = SinkFeed({"wandb": lambda: WandbSink(...)})
        feed.step(record)
        feed.failures()                     # ["wandb is given up: CommError: …"], once
        feed.close()

    Args:
        makers: open a sink, by its name; called on the feed's thread, since opening one may ask the network.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Sink]]) -> None:
        self._makers = dict(makers)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queue: queue.Queue[tuple[dict[str, float], int, float] | None] = queue.Queue(MAX_QUEUED)
        self.num_dropped = 0
        self._thread: threading.Thread | None = None
        if self._makers:
            self._thread = threading.Thread(target=self._run, name="sinks", daemon=True)
            self._thread.start()

    def step(self, step: StepRecord) -> None:
        """Log a step soon."""
        if self._thread is not None:
            self._put(step_figures(step), step.policy_version, step.time)

    def evaluation(self, evaluation: EvaluationRecord) -> None:
        """Log an evaluation soon."""
        if self._thread is not None:
            self._put(evaluation_figures(evaluation), evaluation.policy_version, evaluation.time)

    def failures(self) -> list[str]:
        """A sentence for each sink that failed since the last call."""
        return [self._failures.get() for _ in range(self._failures.qsize())]

    def close(self) -> None:
        """Log what is queued, and close all sinks. Idempotent."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("a service that logs figures has not finished within %.0f s; it is left", CLOSE_S)
        self._thread = None

    def _put(self, figures: dict[str, float], policy_version: int, time_s: float | None) -> None:
        try:
            self._queue.put_nowait((figures, policy_version, time_s or 0.0))
        except queue.Full:
            self.num_dropped += 1

    def _run(self) -> None:
        """Consumes figures / produces log entries / waits for the next / freed by `step`, or by `close`."""
        sinks: dict[str, Sink] = {}
        for name, make in self._makers.items():
            if (sink := self._attempt(name, sinks, make)) is not None:
                sinks[name] = sink
        while (entry := self._queue.get()) is not None:
            figures, version, time_s = entry
            for name, sink in list(sinks.items()):
                step = functools.partial(sink.log, figures, policy_version=version, time_s=time_s)
                self._attempt(name, sinks, step)
        for name, sink in list(sinks.items()):
            self._attempt(name, sinks, sink.close)

    def _attempt(self, name: str, sinks: dict[str, Sink], step: Callable[[], T]) -> T | None:
        try:
            return step()
        except Exception as error:  # whatever a service's own library raises, training goes on
            sinks.pop(name, None)
            log.warning("%s is given up", name, exc_info=error)
            self._failures.put(f"{name} is given up: {type(error).__name__}: {error}")
            return None

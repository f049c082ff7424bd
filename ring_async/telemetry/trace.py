"""The timeline of a run: which process did what, when, on one clock, to be opened in Perfetto.

Owns: recording spans and counters, in one file for each process. Does not own reading them (`trace_parts`).
Invariants: recording never blocks on anything but a rare small write, and never raises; a file is bounded by
`max_bytes`, the oldest half is given up first; a torn last line (a killed process) costs that line alone.

Events are Chrome trace events, one JSON object a line. Times are microseconds since the epoch, taken from the monotonic
clock and anchored once, so that spans of one process never run backwards and those of one host line up.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

_encode = msgspec.json.Encoder().encode
_FLUSH_EVENTS = 512
_FLUSH_US = 1_000_000


def _anchored_us() -> Callable[[], float]:
    anchor_us = time.time_ns() / 1e3 - time.perf_counter_ns() / 1e3
    return lambda: anchor_us + time.perf_counter_ns() / 1e3


class Tracer:
    """Records what one process does. Safe to use from several threads; each gets its own track.

    Args:
        path: the file to append to; None records nothing, at next to no cost.
        process_name: shown in the timeline, e.g. `rollout-0`.
        max_bytes: bound of this file together with its predecessor `<path>.1`.
        now_us: microseconds since the epoch; for tests.
    """

    def __init__(
        self,
        path: Path | None,
        process_name: str,
        *,
        max_bytes: int = 32 << 20,
        now_us: Callable[[], float] | None = None,
    ) -> None:
        self._path = path
        self._now_us = now_us or _anchored_us()
        self._pid = os.getpid()
        self._process_name = process_name
        self._max_file_bytes = max_bytes // 2
        self._events: deque[dict[str, Any]] = deque()
        self._flush_lock = threading.Lock()
        self._flushed_us = self._now_us()
        self._num_bytes = 0
        self._needs_break = False
        self._named_tracks: set[int] = set()
        self.num_lost = 0
        """Events that could not be written, e.g. because the disk was full."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._num_bytes = path.stat().st_size if path.exists() else 0
            # A predecessor that was killed may have left half a line; the break keeps ours whole.
            self._needs_break = self._num_bytes > 0
            self._name_process()

    @property
    def is_on(self) -> bool:
        return self._path is not None

    def span(self, name: str, **args: Any) -> _Span:
        """Record the block as one bar on this thread's track. Spans of one thread must nest.

        For work of several coroutines that interleave, use `async_span`.
        """
        return _Span(self, name, args)

    def async_span(self, name: str, span_id: str, **args: Any) -> _AsyncSpan:
        """Record the block as one bar on a track of its own; spans with the same name may overlap freely."""
        return _AsyncSpan(self, name, span_id, args)

    def complete(self, name: str, began_us: float, ended_us: float, **args: Any) -> None:
        """Record a bar after the fact, from two readings of `now_us`."""
        event = {"ph": "X", "name": name, "ts": began_us, "dur": ended_us - began_us}
        if args:
            event["args"] = args
        self._record(event)

    def counter(self, name: str, **series: float) -> None:
        """Record values as they are now, drawn as stacked areas."""
        self._record({"ph": "C", "name": name, "ts": self._now_us(), "args": series})

    def instant(self, name: str, **args: Any) -> None:
        """Record something that happened at once, e.g. a swap."""
        self._record({"ph": "i", "s": "p", "name": name, "ts": self._now_us(), "args": args})

    def now_us(self) -> float:
        """The tracer's clock, for `complete`."""
        return self._now_us()

    def flush(self) -> None:
        """Write what is recorded. Called by itself every second or 512 events."""
        if self._path is None:
            return
        with self._flush_lock:
            # Other threads append meanwhile: what they add is left for the next flush, never lost.
            events = [self._events.popleft() for _ in range(len(self._events))]
            self._flushed_us = self._now_us()
            if not events:
                return
            lines = b"\n".join(map(_encode, events)) + b"\n"
            try:
                if self._num_bytes + len(lines) > self._max_file_bytes:
                    self._rotate()
                with self._path.open("ab") as stream:
                    stream.write(b"\n" + lines if self._needs_break else lines)
                self._num_bytes += len(lines)
                self._needs_break = False
            except OSError:
                # A timeline is worth less than the run: events that can't be written are counted and dropped.
                self.num_lost += len(events)
                self._needs_break = True

    def close(self) -> None:
        """Write the rest. Idempotent; events recorded later are written by the next flush."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, event: dict[str, Any]) -> None:
        if self._path is None:
            return
        event["pid"] = self._pid
        event["tid"] = track = threading.get_ident()
        if track not in self._named_tracks:
            self._name_track(track)
        events = self._events
        events.append(event)
        if len(events) >= _FLUSH_EVENTS or event["ts"] - self._flushed_us > _FLUSH_US:
            self.flush()

    def _name_process(self) -> None:
        self._events.append({"ph": "M", "name": "process_name", "pid": self._pid, "args": {"name": self._process_name}})

    def _name_track(self, track: int) -> None:
        self._named_tracks.add(track)
        name = threading.current_thread().name
        self._events.append({"ph": "M", "name": "thread_name", "pid": self._pid, "tid": track, "args": {"name": name}})

    def _rotate(self) -> None:
        assert self._path is not None
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._num_bytes = 0
        self._named_tracks.clear()
        self._name_process()


class BusyTrack:
    """Many short pieces of one kind of work as few bars: an engine's decode steps become `generate`.

    Pieces closer than `join_gap_us` are drawn as one bar, cut every second so that a reader sees it grow and a killed
    process loses little. Not thread-safe: it belongs to the thread that does the work.
    """

    def __init__(self, tracer: Tracer, name: str, *, join_gap_us: float = 1000.0) -> None:
        self._tracer, self._name, self._join_gap_us = tracer, name, join_gap_us
        self._bar: tuple[float, float] | None = None

    def add(self, began_us: float, ended_us: float) -> None:
        """One piece of work, between two readings of the tracer's `now_us`; pieces come in order."""
        if self._bar is None:
            self._bar = (began_us, ended_us)
        elif began_us - self._bar[1] <= self._join_gap_us and ended_us - self._bar[0] <= _FLUSH_US:
            self._bar = (self._bar[0], ended_us)
        else:
            self.flush()
            self._bar = (began_us, ended_us)

    def flush(self) -> None:
        """Draw what has been collected. Call it when the work pauses for long, and at the end."""
        if self._bar is not None:
            self._tracer.complete(self._name, *self._bar)
            self._bar = None


class _Span:
    __slots__ = ("_args", "_began_us", "_name", "_tracer")

    def __init__(self, tracer: Tracer, name: str, args: dict[str, Any]) -> None:
        self._tracer, self._name, self._args = tracer, name, args

    def __enter__(self) -> None:
        self._began_us = self._tracer._now_us()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        event = {"ph": "X", "name": self._name, "ts": self._began_us}
        event["dur"] = self._tracer._now_us() - self._began_us
        if self._args:
            event["args"] = self._args
        self._tracer._record(event)


class _AsyncSpan:
    __slots__ = ("_args", "_name", "_span_id", "_tracer")

    def __init__(self, tracer: Tracer, name: str, span_id: str, args: dict[str, Any]) -> None:
        self._tracer, self._name, self._span_id, self._args = tracer, name, span_id, args

    def __enter__(self) -> None:
        self._mark("b")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark("e")

    def _mark(self, phase: str) -> None:
        tracer = self._tracer
        event = {"ph": phase, "cat": "async", "name": self._name, "id": self._span_id, "ts": tracer._now_us()}
        if self._args:
            event["args"] = self._args
        tracer._record(event)

"""Annotations: every change of a run as a mark on Grafana's boards, made from the run's `events.jsonl`.

    events.jsonl ──lines after the position──▶ Annotator ──POST──▶ Grafana
                                                  └─ position, durable after each ──▶ annotations.json

Owns: which events become marks, their words, and how far the file was followed. Does not own the events.
Invariants: an event is written once: the position moves on after Grafana's answer, and where an answer was lost
(an outage, a killed controller) Grafana is asked for the event's own tag before it is sent again. A Grafana that is
away stops nothing: the position stays where it is, and this is said once. An event that Grafana finds fault with is
passed over, by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ring_async.core.event_kinds import EventKind
from ring_async.monitoring.grafana.build import TAG
from ring_async.monitoring.grafana.client import Grafana, GrafanaError
from ring_async.records.events import Event, read_event
from ring_async.storage.run_dir import RunDir, write_json

log = logging.getLogger(__name__)

LOOK_S = 1.0
RETRY_S = 5.0

ANNOTATED = frozenset(
    {
        EventKind.CONTROLLER_STARTED,
        EventKind.ACTOR_LOST,
        EventKind.PAUSED,
        EventKind.RESUMED,
        EventKind.STOPPING,
        EventKind.FAILED,
        EventKind.CHECKPOINT,
        EventKind.CHECKPOINT_SAVED,
        EventKind.VERIFIER_SWAPPED,
        EventKind.VERIFIER_ROLLED_BACK,
        EventKind.VERIFIER_SWAP_ABORTED,
        EventKind.DOMAIN_PAUSED,
        EventKind.DOMAIN_RESUMED,
        EventKind.MIXTURE_CHANGED,
        EventKind.DIFFICULTY_CHANGED,
        EventKind.SOURCE_ADDED,
        EventKind.KNOBS_CHANGED,
        EventKind.SCALED,
        EventKind.ALERT_RAISED,
        EventKind.ALERT_CLEARED,
    }
)
"""Kinds that a person wants to see on a curve. Alerts of Prometheus' rules come by the board's own query."""

_MAX_VALUE = 120
"""Characters of one value in an annotation's text."""


class Annotator:
    """Follows one run's events.

    Args:
        run_dir: of the run; `annotations.json` in it holds the position.
        run: its name, a tag of every annotation.
        grafana: where they go.
        on_lost: is told once, with a sentence, when Grafana cannot be reached.
    """

    def __init__(self, run_dir: RunDir, run: str, grafana: Grafana, on_lost: Callable[[str], None]) -> None:
        self._events = run_dir.events
        self._state = run_dir.path / "annotations.json"
        self._run = run
        self._grafana = grafana
        self._on_lost = on_lost
        self._position = _read_position(self._state)
        self._doubtful_until = self._events.stat().st_size if self._events.exists() else 0
        """Events that begin before this byte may have been written already: by a process before this one, or by a call
        whose answer was lost.
        """
        self._is_lost = False
        self._turn = threading.Lock()

    async def run(self) -> None:
        """Consumes lines of events / produces annotations / waits a moment / freed by time; cancel it to end."""
        while True:
            try:
                await asyncio.to_thread(self.catch_up)
            except GrafanaError as error:
                self._note_lost(error)
            except OSError as error:  # a full disk: the position in memory is right, and is written later
                log.warning("how far annotations came could not be written: %s", error)
            await asyncio.sleep(RETRY_S if self._is_lost else LOOK_S)

    def catch_up(self) -> int:
        """Write all events that were not written yet; returns how many.

        Raises:
            GrafanaError: Grafana is away, or refused; the events that are left follow later.
        """
        with self._turn:  # the last call, at the end of a run, waits for one that is under way
            return self._catch_up()

    def _catch_up(self) -> int:
        num_written = 0
        for event, start, end in _events_after(self._events, self._position):
            if event is not None and event.kind in ANNOTATED:
                num_written += self._write(event, start)
            self._position = end
            if event is not None and event.kind in ANNOTATED:
                write_json(self._state, {"position": end})
        if self._is_lost:
            self._is_lost = False
            log.info("%s answers again; annotations up to now are there", self._grafana.url)
        return num_written

    def _write(self, event: Event, start: int) -> bool:
        time_ms = round(event.time * 1000)
        own_tag = f"{self._run}-{start}-{time_ms}"
        if start < self._doubtful_until and self._grafana.has_annotation(own_tag):
            return False
        self._doubtful_until = max(self._doubtful_until, start + 1)
        tags = [TAG, self._run, event.kind, own_tag]
        try:
            self._grafana.annotate(annotation_text(event), time_ms=time_ms, tags=tags)
        except GrafanaError as error:
            if not error.is_about_the_call:
                raise
            log.warning("no annotation for an event of kind %s: %s", event.kind, error)
            return False
        return True

    def _note_lost(self, error: GrafanaError) -> None:
        if not self._is_lost:
            self._is_lost = True
            log.warning("annotations wait: %s; training goes on", error)
            self._on_lost(str(error))


def annotation_text(event: Event) -> str:
    """An event in one line: what, by whom, and the details, long ones cut. No markup: Grafana shows text as HTML."""
    details = ", ".join(
        f"{key}: {_short(value)}" for key, value in event.details.items() if value not in (None, "", [], {})
    )
    text = f"{event.kind.replace('_', ' ')} by {event.author}" + (f" ({details})" if details else "")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _events_after(path: Path, position: int) -> Iterator[tuple[Event | None, int, int]]:
    """Whole lines from a position on: the event (None: the line is none), its start and its end, in bytes."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        stream.seek(position)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start, position = position, position + len(line)
            try:
                value = json.loads(line)
                yield (read_event(value) if isinstance(value, dict) else None), start, position
            except ValueError:
                yield None, start, position


def _read_position(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["position"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

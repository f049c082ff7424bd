"""Events of a run: what a person, a rule or a fault changed, a line of `events.jsonl` each.

    {"time": 1764061200.5, "kind": "scaled", "author": "api", "role": "rollout", "before": 2, "after": 3}

Owns: the reading and writing of a line. Does not own the kinds (`core.event_kinds`), nor who writes one
(`RunLog.event`).
Invariants: `time`, `kind` and `author` are typed; what else a kind says lies beside them in the line, and in
`Event.details` in memory. The keys of the details are part of the kind, and are listed at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ring_async.core.event_kinds import EventKind


class Event(msgspec.Struct, frozen=True):
    """One event. `time` is in seconds since the epoch; `author` is a person, an actor id or a rule."""

    time: float
    kind: EventKind
    author: str
    details: dict[str, Any] = {}

    def plain(self) -> dict[str, Any]:
        """The event as a line of `events.jsonl` and as `status` lists it: the details beside the other fields."""
        details: dict[str, Any] = msgspec.to_builtins(self.details)
        return details | {"time": self.time, "kind": str(self.kind), "author": self.author}


def read_event(line: Mapping[str, Any]) -> Event:
    """Read one line; a kind that this release does not know becomes `EventKind.OTHER`.

    Raises:
        ValueError: the line is no event.
    """
    time, kind, author = line.get("time"), line.get("kind"), line.get("author")
    if not isinstance(time, int | float) or not isinstance(kind, str) or not isinstance(author, str):
        raise ValueError(f"an event has a time, a kind and an author, unlike {dict(line)!r:.150}")  # noqa: TRY004
    details = {key: value for key, value in line.items() if key not in {"time", "kind", "author"}}
    if kind not in EventKind.__members__.values():
        return Event(float(time), EventKind.OTHER, author, details | {"kind": kind})
    return Event(float(time), EventKind(kind), author, details)

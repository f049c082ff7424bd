"""Events of a run: what a person, a rule or a fault changed, a line of `events.jsonl` each.

    {"time": 1764061200.5, "kind": "scaled", "author": "api", "role": "rollout", "before": 2, "after": 3}

Owns: the closed set of kinds, and the reading and writing of a line. Does not own who writes one (`RunLog.event`).
Invariants: `time`, `kind` and `author` are typed; what else a kind says lies beside them in the line, and in
`Event.details` in memory. The keys of the details are part of the kind, and are listed at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec


class EventKind(StrEnum):
    """What happened; below each kind, the keys of its details."""

    JOURNAL_DAMAGED = "journal_damaged"
    """lost: what could not be read back"""
    CONTROLLER_STARTED = "controller_started"
    """is_resumed"""
    JOINED = "joined"
    """incarnation, pid, host"""
    ACTOR_WAITING = "actor_waiting"
    """actor, whom: it cannot start yet"""
    ACTOR_LEFT = "actor_left"
    """actor, notice: it was told to"""
    ACTOR_LOST = "actor_lost"
    """actor, notice: it died, and starts again unless the run ends"""
    ACTOR_FAILED = "actor_failed"
    """error, detail: what the actor said before it ended"""
    EVALUATOR_GIVEN_UP = "evaluator_given_up"
    """reason"""
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"
    """reason"""
    FAILED = "failed"
    """reason"""
    STOPPED = "stopped"
    """reason, failure, killed: the outcome"""
    CHECKPOINT = "checkpoint"
    """path: a person asked for it"""
    CHECKPOINT_SAVED = "checkpoint_saved"
    """path, policy_version: the learner wrote one"""
    GROUP_FAILED = "group_failed"
    """group_id, cause, detail"""
    PROMPT_REFUSED = "prompt_refused"
    """group_id, prompt_id, source, reason: no engine can take it"""
    EVALUATED = "evaluated"
    """policy_version, pass_at_1, avg_at_k"""
    CALLS_REFUSED = "calls_refused"
    """cause, num, method, path, client"""
    VERIFIER_SWAPPED = "verifier_swapped"
    """verifier, before, after, rescore, cause"""
    VERIFIER_ROLLED_BACK = "verifier_rolled_back"
    """verifier, before, after, rescore, cause"""
    VERIFIER_SWAP_ABORTED = "verifier_swap_aborted"
    """verifier, use, reason"""
    VERIFIER_RECONFIGURED = "verifier_reconfigured"
    """verifier, before, after"""
    DOMAIN_PAUSED = "domain_paused"
    """sources, reason"""
    DOMAIN_RESUMED = "domain_resumed"
    """sources, verifier"""
    MIXTURE_CHANGED = "mixture_changed"
    """before, after, mixture_epoch"""
    DIFFICULTY_CHANGED = "difficulty_changed"
    """before, after, mixture_epoch"""
    DIFFICULTY_WINDOW_EMPTY = "difficulty_window_empty"
    """source, window, num_passed"""
    SOURCE_ADDED = "source_added"
    """source, after"""
    SCHEDULE_REFUSED = "schedule_refused"
    """at_version, reason"""
    KNOBS_CHANGED = "knobs_changed"
    """before, after"""
    SCALED = "scaled"
    """role, before, after"""
    MONITORING_LOST = "monitoring_lost"
    """reason: a service that people watch with cannot be reached; training goes on"""
    OTHER = "other"
    """kind: of an event that another release wrote"""


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


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file, one a line; torn lines are left out, and a missing file is empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                yield read_event(value)
        except ValueError:
            continue

"""What the live page is told: everything once, then what is new, each as one server-sent event.

    History, RunStatus ──Frames──▶ `event: whole` at the start, then `event: news`

Owns: the content of the frames and its form. Does not own when they are sent (`feed`).
Invariants: every text in a frame is `printable`; a frame is encoded once, however many people watch; of the present
state, `news` holds what changed since the `news` before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ring_async.core.explain.explain import explain
from ring_async.core.explain.history import Happening, History
from ring_async.core.explain.utilisation import utilisation
from ring_async.printable import printable
from ring_async.records.status import ActorStatus, RunStatus
from ring_async.records.steps import StepRecord
from ring_async.storage.run_dir import RunDir

MAX_POINTS = 1000
"""Steps of a frame; of a longer run every n-th is shown."""
NUM_EVENTS = 100
HEARD_S = 5.0
"""An actor that was heard within this time counts as heard now."""

STEP_FIGURES = (
    "policy_version", "time", "reward_mean", "reward_by_source", "generated_tokens_per_s", "tokens_per_s",
    "staleness_mean", "staleness_max", "step_s", "wait_batch_s", "publish_s", "entropy", "effective_sample_size",
    "buffer_tokens",
)  # fmt: skip


class Watched(Protocol):
    """What the page needs of a run."""

    def status(self) -> RunStatus: ...

    def recent(self) -> History: ...

    def recent_steps(self) -> Sequence[StepRecord]:
        """The newest steps, the oldest first."""

    @property
    def run_dir(self) -> RunDir: ...


class Frames:
    """The frames of one run. `news` is called by one caller, which sends the same frame to everybody."""

    def __init__(self, run: Watched) -> None:
        self._run = run
        self._last_step = -math.inf
        self._last_event = -math.inf
        self._judged_at = -math.inf
        self._judged: dict[str, Any] = {}
        self._told: dict[str, Any] = {}

    def whole(self, steps: list[StepRecord]) -> bytes:
        """All there is to show. `steps`: of the whole run, from `read_steps`."""
        history = self._run.recent()
        shown = steps[:: max(1, math.ceil(len(steps) / MAX_POINTS))]
        content = {
            "status": self._status(),
            **self._judge(history),
            "max_staleness": history.limits.max_staleness,
            "steps": [_step(step) for step in shown],
            "events": [_event(one) for one in history.events[-NUM_EVENTS:]],
        }
        return _frame("whole", content)

    def news(self) -> bytes:
        """What changed of the present state, and the steps and events, since the last call."""
        history = self._run.recent()
        steps = [step for step in self._run.recent_steps() if (step.time or 0.0) > self._last_step]
        events = [event for event in history.events if event.time > self._last_event]
        self._last_step = max([self._last_step, *(step.time or 0.0 for step in steps)])
        self._last_event = max([self._last_event, *(event.time for event in events)])
        status, judged = self._status(), self._judge(history)
        content = {
            "status": {key: value for key, value in status.items() if self._told.get(key, self) != value},
            **{key: value for key, value in judged.items() if self._told.get(key) is not value},
            "steps": [_step(step) for step in steps],
            "events": [_event(one) for one in events[-NUM_EVENTS:]],
        }
        self._told = status | judged
        return _frame("news", content)

    def _status(self) -> dict[str, Any]:
        """The part of the status that the page shows, in whole seconds: what does not change is not sent again."""
        status = self._run.status()
        return {
            "run": status.run,
            "state": status.state,
            "reason": status.reason,
            "policy_version": status.policy_version,
            "policy_versions": status.policy_versions,
            "remaining_s": None if status.remaining_s is None else round(status.remaining_s),
            "mixture": status.changes.mixture,
            "actors": [_actor(one) for one in status.actors],
        }

    def _judge(self, history: History) -> dict[str, Any]:
        """What follows from the samples: computed once for each sample, since it changes no sooner."""
        newest = history.samples[-1].uptime_s if history.samples else -math.inf
        if newest != self._judged_at or not self._judged:
            self._judged_at = newest
            self._judged = {
                "findings": [
                    {"gravity": one.gravity.name.lower(), "what": one.what, "remedy": one.remedy, "cause": one.cause}
                    for one in explain(history)
                ],
                "utilisation": [msgspec.to_builtins(one) for one in utilisation(history)],
            }
        return self._judged


def printable_tree(plain: Any) -> Any:
    """Plain data with every text, keys included, made `printable`."""
    if isinstance(plain, str):
        return printable(plain)
    if isinstance(plain, dict):
        return {printable(str(key)): printable_tree(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [printable_tree(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _actor(actor: ActorStatus) -> dict[str, Any]:
    silent_s = actor.heartbeat_age_s
    return {
        "actor_id": actor.actor_id,
        "incarnation": actor.incarnation,
        "state": actor.state,
        "waiting_for": actor.waiting_for,
        "waited_s": round(actor.waited_s),
        "silent_s": silent_s if silent_s is None else round(silent_s) if silent_s > HEARD_S else 0,
        "policy_version": getattr(actor.counters, "policy_version", None),
    }


def _step(step: StepRecord) -> dict[str, Any]:
    return {name: value for name in STEP_FIGURES if (value := getattr(step, name)) is not None}


def _event(event: Happening) -> dict[str, Any]:
    return {"time": event.time, "kind": event.kind, "author": event.author, "details": event.details}


def _frame(kind: str, content: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(printable_tree(content), default=str)}\n\n".encode()

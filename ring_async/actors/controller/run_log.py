"""The files that the controller writes while a run goes on: a line for each step, evaluation and event.

Owns: `metrics.jsonl` (a line for each optimizer batch: the learner's figures joined with the fleet's),
`evaluations.jsonl` (a line for each version evaluated) and `events.jsonl` (who changed what, when, with the values
before and after). Does not own what the figures mean.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ring_async.clock import monotonic_s, wall_s
from ring_async.config.schema import Config
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import CONTROLLER_ID
from ring_async.errors import StorageError
from ring_async.records.events import Event
from ring_async.records.figures import BufferTotals, ScoredTotals, scored_since
from ring_async.records.steps import EvaluationRecord, StepRecord, evaluation_record, step_record
from ring_async.storage.json_lines import JsonLines
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry import metrics
from ring_async.telemetry.sinks.base import Sink
from ring_async.telemetry.sinks.feed import SinkFeed
from ring_async.telemetry.sinks.registry import sink_makers
from ring_async.transport.messages.batches import StepCompleted
from ring_async.transport.messages.versions import VersionEvaluated
from ring_async.types import PolicyVersion

NUM_RECENT = 50
TAIL_BYTES = 1 << 16


class RunLog:
    """Writes the files of one run, feeds its sinks, and keeps the last lines in memory for `status`.

    Args:
        run_dir: whose files go on where they are.
        is_fleet_alive: whether the run went on without a controller until now, so that its time does, too.
        sinks: what opens each service that logs figures, by its name.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        is_fleet_alive: bool = False,
        sinks: Mapping[str, Callable[[], Sink]] | None = None,
    ) -> None:
        self._feed = SinkFeed(sinks or {})
        last_step = last_line(run_dir.metrics)
        self._last_version = _version_of(last_step) if last_step else PolicyVersion(-1, -1)
        self._metrics = JsonLines(run_dir.metrics)
        self._events = JsonLines(run_dir.events)
        self._evaluations_path = run_dir.evaluations
        self._evaluations: JsonLines | None = None
        self._began_s = monotonic_s()
        if is_fleet_alive and last_step:
            self._began_s -= last_step["wall_s"] + max(0.0, wall_s() - last_step["time"])
        self._last: tuple[float, float] | None = None if is_fleet_alive else (self._began_s, 0.0)
        """Time of the last step and the tokens generated until then; None if another process saw it."""
        self._scored: Mapping[str, ScoredTotals] = {}
        self.recent_steps: deque[StepRecord] = deque(maxlen=NUM_RECENT)
        self.recent_events: deque[Event] = deque(maxlen=NUM_RECENT)
        last_evaluation = last_line(run_dir.evaluations)
        self.last_evaluation: EvaluationRecord | None = evaluation_record(last_evaluation) if last_evaluation else None

    def step(self, completed: StepCompleted, *, generated_tokens: float, buffer: BufferTotals) -> None:
        """Write a step's line. `generated_tokens` counts all rollouts since the start; `buffer` is replay's report.

        A step that was written before is reported again if the controller died before the learner had heard; it
        changes nothing.

        `reward_mean` and `reward_by_source` are means over all groups scored since the last step. The batch's own mean
        leaves out groups without a signal, so it says little about the policy; it is `batch_reward_mean`.
        """
        version = completed.policy_version
        if version <= self._last_version:
            return
        self._last_version = version
        now_s = monotonic_s()
        since_s, generated_before = self._last or (now_s, generated_tokens)
        self._last = (now_s, generated_tokens)
        scored, self._scored = scored_since(self._scored, buffer.scored), buffer.scored
        rate = max(0.0, generated_tokens - generated_before) / max(now_s - since_s, 1e-6)
        fleet: dict[str, Any] = {
            "policy_version": version.number,
            "incarnation": version.incarnation,
            "stage": "rl",
            "time": wall_s(),
            "wall_s": now_s - self._began_s,
            "generated_tokens_per_s": rate,
            "buffer_tokens": buffer.buffer_tokens,
            "evicted": buffer.evicted,
        }
        own = completed.metrics
        record = step_record(fleet | own | {"batch_reward_mean": own.get("reward_mean")} | _rewards(scored))
        self._metrics.append(record.plain())
        self.recent_steps.append(record)
        self._feed.step(record)
        for reason in self._feed.failures():
            self.event(EventKind.MONITORING_LOST, author=CONTROLLER_ID, reason=reason)

    def remaining_s(self, last_version: int) -> float | None:
        """Seconds until `last_version`, at the pace of the steps in memory; None while there are fewer than two."""
        if len(self.recent_steps) < 2:
            return None
        first, last = self.recent_steps[0], self.recent_steps[-1]
        num_versions = last.policy_version - first.policy_version
        if num_versions <= 0 or first.wall_s is None or last.wall_s is None:  # or the learner went back a checkpoint
            return None
        return max(0, last_version - last.policy_version) * (last.wall_s - first.wall_s) / num_versions

    def event(self, kind: EventKind, *, author: str, **details: object) -> None:
        """Write a line to `events.jsonl` for a change or an incident; `EventKind` lists the details of each kind."""
        metrics.controller_events.labels(kind=kind).inc()
        event = Event(wall_s(), kind, author, details)
        self._events.append(event.plain())
        self.recent_events.append(event)

    def evaluation(self, evaluated: VersionEvaluated, *, author: str) -> None:
        """Write an evaluation's line and an event. A report that arrives twice counts once.

        Raises:
            StorageError: the file cannot be opened; nothing was changed.
        """
        version = evaluated.policy_version
        line = {"policy_version": version.number, "incarnation": version.incarnation, **evaluated.figures}
        record, last = evaluation_record(line), self.last_evaluation
        if last is not None and record == msgspec.structs.replace(last, time=None, wall_s=None):
            return
        record = msgspec.structs.replace(record, time=wall_s(), wall_s=monotonic_s() - self._began_s)
        if self._evaluations is None:  # runs without evaluations have no file
            try:
                self._evaluations = JsonLines(self._evaluations_path)
            except OSError as error:
                raise StorageError(f"{self._evaluations_path} cannot be opened: {error.strerror}") from error
        self.last_evaluation = record
        self._evaluations.append(record.plain())
        self._feed.evaluation(record)
        self.event(
            EventKind.EVALUATED,
            author=author,
            policy_version=record.policy_version,
            pass_at_1=record.pass_at_1,
            avg_at_k=record.avg_at_k,
        )

    def flush(self) -> None:
        """Write the lines that a full disk has held up, if there is room now."""
        for lines in self._files():
            lines.flush()

    def close(self) -> None:
        self._feed.close()
        for lines in self._files():
            lines.close()

    def _files(self) -> tuple[JsonLines, ...]:
        evaluations = (self._evaluations,) if self._evaluations else ()
        return (self._metrics, self._events, *evaluations)


def sinks_of(config: Config, folder: Path) -> dict[str, Callable[[], Sink]]:
    """What opens each service that the configuration asks for, for a run in `folder`."""
    monitoring = config.monitoring
    return sink_makers(
        folder,
        config.run.name,
        tensorboard=monitoring.tensorboard,
        wandb_project=monitoring.wandb,
        config=config.model_dump(mode="json"),
    )


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file of JSON lines; None if there is none among its last `TAIL_BYTES`."""
    if not path.exists():
        return None
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = stream.read().splitlines()
    for line in reversed(tail):
        with contextlib.suppress(ValueError):
            return dict(json.loads(line))
    return None


def _version_of(line: dict[str, Any]) -> PolicyVersion:
    return PolicyVersion(line["incarnation"], line["policy_version"])


def _rewards(scored: Mapping[str, ScoredTotals]) -> dict[str, Any]:
    """Mean rewards of scored trajectories, over all sources and for each; empty when there were none."""
    if not scored:
        return {}
    together = sum(scored.values(), ScoredTotals())
    return {
        "reward_mean": together.reward_mean,
        "reward_by_source": {source: one.reward_mean for source, one in scored.items()},
    }

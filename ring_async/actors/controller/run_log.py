"""The files that the controller writes while a run goes on: a line for each step, evaluation and event.

Owns: `metrics.jsonl` (a line for each optimizer batch: the learner's figures joined with the fleet's),
`evaluations.jsonl` (a line for each version evaluated) and `events.jsonl` (who changed what, when, with the values
before and after). Does not own what the figures mean.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from pathlib import Path
from typing import Any

from ring_async.clock import monotonic_s, wall_s
from ring_async.storage.json_lines import JsonLines
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry import metrics
from ring_async.transport.messages.batches import StepCompleted
from ring_async.transport.messages.versions import VersionEvaluated

NUM_RECENT = 50
TAIL_BYTES = 1 << 16


class RunLog:
    """Writes the files of one run, and keeps their last lines in memory for `status`.

    Args:
        run_dir: whose files go on where they are.
        is_fleet_alive: whether the run went on without a controller until now, so that its time does, too.
    """

    def __init__(self, run_dir: RunDir, *, is_fleet_alive: bool = False) -> None:
        last_step = last_line(run_dir.metrics)
        self._last_version = _version_of(last_step) if last_step else (-1, -1)
        self._metrics = JsonLines(run_dir.metrics)
        self._events = JsonLines(run_dir.events)
        self._evaluations_path = run_dir.evaluations
        self._began_s = monotonic_s()
        if is_fleet_alive and last_step:
            self._began_s -= last_step["wall_s"] + max(0.0, wall_s() - last_step["time"])
        self._last: tuple[float, float] | None = None if is_fleet_alive else (self._began_s, 0.0)
        """Time of the last step and the tokens generated until then; None if another process saw it."""
        self._scored: dict[str, float] = {}
        self.recent_steps: deque[dict[str, Any]] = deque(maxlen=NUM_RECENT)
        self.recent_events: deque[dict[str, Any]] = deque(maxlen=NUM_RECENT)
        self.last_evaluation: dict[str, Any] | None = last_line(run_dir.evaluations)

    def step(self, completed: StepCompleted, *, generated_tokens: float, buffer: dict[str, float]) -> None:
        """Write a step's line. `generated_tokens` counts all rollouts since the start; `buffer` is replay's report.

        A step that was written before is reported again if the controller died before the learner had heard; it
        changes nothing.

        `reward_mean` and `reward_by_source` are means over all groups scored since the last step. The batch's own mean
        leaves out groups without a signal, so it says little about the policy; it is `batch_reward_mean`.
        """
        version = completed.policy_version
        if (version.incarnation, version.number) <= self._last_version:
            return
        self._last_version = (version.incarnation, version.number)
        now_s = monotonic_s()
        since_s, generated_before = self._last or (now_s, generated_tokens)
        self._last = (now_s, generated_tokens)
        scored, self._scored = self._scored, buffer
        rate = max(0.0, generated_tokens - generated_before) / max(now_s - since_s, 1e-6)
        line = {
            "policy_version": version.number,
            "incarnation": version.incarnation,
            "stage": "rl",
            "time": wall_s(),
            "wall_s": now_s - self._began_s,
            "generated_tokens_per_s": rate,
            "buffer_tokens": buffer.get("buffer_tokens", 0),
            "evicted": buffer.get("evicted", 0),
            **completed.metrics,
            "batch_reward_mean": completed.metrics.get("reward_mean"),
            **_reward_since(scored, buffer),
        }
        self._metrics.append(line)
        self.recent_steps.append(line)

    def remaining_s(self, last_version: int) -> float | None:
        """Seconds until `last_version`, at the pace of the steps in memory; None while there are fewer than two."""
        if len(self.recent_steps) < 2:
            return None
        first, last = self.recent_steps[0], self.recent_steps[-1]
        num_versions = last["policy_version"] - first["policy_version"]
        if num_versions <= 0:  # the learner went back to a checkpoint
            return None
        return max(0, last_version - last["policy_version"]) * (last["wall_s"] - first["wall_s"]) / num_versions

    def event(self, kind: str, *, author: str, **details: object) -> None:
        """Write a line to `events.jsonl` for a change or an incident."""
        metrics.controller_events.labels(kind=kind).inc()
        line = {"time": wall_s(), "kind": kind, "author": author, **details}
        self._events.append(line)
        self.recent_events.append(line)

    def evaluation(self, evaluated: VersionEvaluated, *, author: str) -> None:
        """Write an evaluation's line and an event. A report that arrives twice counts once."""
        version = evaluated.policy_version
        line = {"policy_version": version.number, "incarnation": version.incarnation, **evaluated.figures}
        last = self.last_evaluation
        if last is not None and line.items() <= last.items():
            return
        self.last_evaluation = line | {"time": wall_s(), "wall_s": monotonic_s() - self._began_s}
        # opened for each line: evaluations are rare, and runs without them have no file
        lines = JsonLines(self._evaluations_path)
        lines.append(self.last_evaluation)
        lines.close()
        shown = {key: line.get(key) for key in ("policy_version", "pass_at_1", "avg_at_k")}
        self.event("evaluated", author=author, **shown)

    def flush(self) -> None:
        """Write the lines that a full disk has held up, if there is room now."""
        self._metrics.flush()
        self._events.flush()

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


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


def _version_of(line: dict[str, Any]) -> tuple[int, int]:
    return line["incarnation"], line["policy_version"]


def _reward_since(before: dict[str, float], now: dict[str, float]) -> dict[str, Any]:
    """Mean rewards of the groups scored between two reports of replay; empty when there were none."""
    rewards: dict[str, tuple[float, float]] = {}
    for name, value in now.items():
        kind, _, source = name.partition("/")
        number = value - before.get(name, 0.0)
        if kind == "scored" and number > 0:
            rewards[source] = (number, now[f"reward/{source}"] - before.get(f"reward/{source}", 0.0))
    if not rewards:
        return {}
    number, total = (sum(part) for part in zip(*rewards.values(), strict=True))
    return {"reward_mean": total / number, "reward_by_source": {s: r / n for s, (n, r) in rewards.items()}}

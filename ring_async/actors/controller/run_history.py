"""The last minutes of a run in memory, for `explain` and the live page.

    controller's status, RunLog's newest lines ──every SAMPLE_S──▶ RunHistory ──▶ History

Owns: when a sample is taken, how long samples, steps and events are kept, and how a status becomes a sample. Does not
own what they mean (`core.explain`).
Invariant: memory is bounded, whatever the length of the run and the size of its events.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ring_async.actors.controller.context import RunContext
from ring_async.clock import monotonic_s, wall_s
from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.core.explain.history import (
    ActorSample,
    Happening,
    History,
    Limits,
    Sample,
    Step,
    read_happening,
    read_step,
)

SAMPLE_S = 5.0
NUM_SAMPLES = 240
NUM_STEPS = 2000
NUM_EVENTS = 500


class RunHistory:
    """The recent past of one run.

    Args:
        context: of the run.
        status: the run's present status, as plain data.
    """

    def __init__(self, context: RunContext, status: Callable[[], Mapping[str, Any]]) -> None:
        self._config = context.config
        self._run_log = context.run_log
        self._path = context.run_dir.path
        self._status = status
        self._began_s = monotonic_s()
        self.samples: deque[Sample] = deque(maxlen=NUM_SAMPLES)
        self.steps: deque[Step] = deque(maxlen=NUM_STEPS)
        self.events: deque[Happening] = deque(maxlen=NUM_EVENTS)

    async def run(self) -> None:
        """Consumes the status / produces samples / waits for the next one to be due / freed by time."""
        while True:
            self.take()
            await asyncio.sleep(SAMPLE_S)

    def take(self) -> None:
        """Take one sample, with the steps and events since the last."""
        status = self._status()
        self.catch_up()
        free, total = _disk(self._path)
        self.samples.append(sample_of(status, wall_s(), monotonic_s() - self._began_s, free, total))

    def catch_up(self) -> None:
        """Take over the steps and events since the last call."""
        self.steps.extend(_newer(self.steps, map(read_step, self._run_log.recent_steps)))
        self.events.extend(_newer(self.events, map(read_happening, self._run_log.recent_events)))

    def history(self, knobs: Mapping[str, Any]) -> History:
        """All that is kept. `knobs` are the settings that were changed live."""
        limits = limits_of(tuned(self._config, knobs))
        return History(
            limits=limits, samples=tuple(self.samples), steps=tuple(self.steps), events=tuple(self.events)
        )  # fmt: skip


def limits_of(config: Config) -> Limits:
    """What a configuration allows, as the rules read it."""
    return Limits(
        mode=config.mode,
        group_size=config.rollout.group_size,
        max_tokens=config.rollout.max_tokens,
        max_staleness=config.max_staleness,
        checkpoint_every=config.checkpoint.every_versions,
        evaluation_every=config.evaluation.every_versions,
        heartbeat_timeout_s=config.monitoring.heartbeat_timeout_s,
        max_kv_age=config.rollout.max_kv_age,
    )


def sample_of(
    status: Mapping[str, Any], time: float, uptime_s: float, free_bytes: int | None, total_bytes: int | None
) -> Sample:
    """A status as a sample."""
    changes = status["changes"]
    return Sample(
        time=time,
        uptime_s=uptime_s,
        state=str(status["state"]),
        policy_version=status["policy_version"],
        actors=tuple(map(_actor_of, status["actors"])),
        ledger=dict(status["ledger"]),
        causes=dict(status["causes"]),
        scored=_scored_of(status["buffer"]),
        mixture=dict(changes["mixture"]),
        paused_sources=tuple(status["paused_sources"]),
        disk_free_bytes=free_bytes,
        disk_total_bytes=total_bytes,
    )


def _actor_of(actor: Mapping[str, Any]) -> ActorSample:
    figures = actor.get("counters") or {}
    return ActorSample(
        actor_id=actor["actor_id"],
        role=str(actor["role"]),
        state=str(actor["state"]),
        waiting_for=actor["waiting_for"][:200],
        waited_s=actor["waited_s"],
        silent_s=actor["heartbeat_age_s"],
        figures={name: value for name, value in figures.items() if isinstance(value, int | float)},
    )


def _scored_of(buffer: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    sources = (name.partition("/")[2] for name in buffer if name.startswith("scored/"))
    return {source: (int(buffer[f"scored/{source}"]), buffer[f"reward/{source}"]) for source in sources}


def _newer(kept: deque[Any], found: Iterable[Any]) -> list[Any]:
    last = kept[-1].time if kept else float("-inf")
    return [one for one in found if one is not None and one.time > last]


def _disk(path: Any) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, None
    return usage.free, usage.total

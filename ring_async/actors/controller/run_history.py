"""The last minutes of a run in memory, for `explain` and the live page.

    controller's status, RunLog's newest lines ──every SAMPLE_S──▶ RunHistory ──▶ History

Owns: when a sample is taken, how long samples, steps and events are kept, how a status becomes a sample, and the events
of alerts. Does not own what samples mean, nor what is an alert (`core.explain`).
Invariant: memory is bounded, whatever the length of the run and the size of its events.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from ring_async.actors.controller.context import RunContext
from ring_async.clock import monotonic_s, wall_s
from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.alerts import Alerts
from ring_async.core.explain.explain import explain
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
from ring_async.records.status import ActorStatus, RunStatus
from ring_async.records.steps import StepRecord

SAMPLE_S = 5.0
NUM_SAMPLES = 240
NUM_STEPS = 2000
NUM_EVENTS = 500
MAX_WORDS = 200
"""Characters kept of what an actor waits for."""


class _Dated(Protocol):
    @property
    def time(self) -> float | None: ...


_Timed = TypeVar("_Timed", bound=_Dated)


class RunHistory:
    """The recent past of one run, as the live page and `explain` ask for it (`monitoring.live.frames.Watched`).

    Args:
        context: of the run.
        status: the run's present status.
        knobs: the settings that were changed live.
    """

    def __init__(
        self, context: RunContext, status: Callable[[], RunStatus], knobs: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._config = context.config
        self._run_log = context.run_log
        self.run_dir = context.run_dir
        self.status = status
        self._knobs = knobs
        self._limits: tuple[dict[str, Any], Limits] | None = None
        """The settings that were changed live, and the limits that follow: they are validated only when they change."""
        self._alerts = Alerts()
        self._began_s = monotonic_s()
        self.samples: deque[Sample] = deque(maxlen=NUM_SAMPLES)
        self.steps: deque[Step] = deque(maxlen=NUM_STEPS)
        self.events: deque[Happening] = deque(maxlen=NUM_EVENTS)

    async def run(self) -> None:
        """Consumes the status / produces samples and alerts / waits for the next one to be due / freed by time."""
        while True:
            self.take()
            self._note_alerts()
            await asyncio.sleep(SAMPLE_S)

    def take(self) -> None:
        """Take one sample, with the steps and events since the last."""
        status = self.status()
        self._catch_up()
        free, total = _disk(self.run_dir.path)
        uptime_s = monotonic_s() - self._began_s
        self.samples.append(sample_of(status, time=wall_s(), uptime_s=uptime_s, free_bytes=free, total_bytes=total))

    def _note_alerts(self) -> None:
        """Write an event for each alert that is raised or over."""
        for notice in self._alerts.observe(explain(self.recent())):
            kind = EventKind.ALERT_RAISED if notice.is_raised else EventKind.ALERT_CLEARED
            one = notice.finding
            remedy = {"remedy": one.remedy} if notice.is_raised else {}
            self._run_log.event(kind, author="explain", cause=str(one.cause), who=one.who, what=one.what, **remedy)

    def _catch_up(self) -> None:
        """Take over the steps and events since the last call."""
        steps = (read_step(one.plain()) for one in _newer(self.steps, self._run_log.recent_steps))
        self.steps.extend(step for step in steps if step is not None)
        events = (read_happening(one.plain()) for one in _newer(self.events, self._run_log.recent_events))
        self.events.extend(event for event in events if event is not None)

    def recent(self) -> History:
        """All that is kept, up to now."""
        self._catch_up()
        knobs = dict(self._knobs())
        if self._limits is None or self._limits[0] != knobs:
            self._limits = knobs, limits_of(tuned(self._config, knobs))
        return History(
            limits=self._limits[1], samples=tuple(self.samples), steps=tuple(self.steps), events=tuple(self.events)
        )  # fmt: skip

    def recent_steps(self) -> Sequence[StepRecord]:
        """The newest steps, the oldest first."""
        return self._run_log.recent_steps


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
        on_update=config.rollout.on_update,
    )


def sample_of(
    status: RunStatus, *, time: float, uptime_s: float, free_bytes: int | None = None, total_bytes: int | None = None
) -> Sample:
    """A status as a sample."""
    return Sample(
        time=time,
        uptime_s=uptime_s,
        state=status.state,
        policy_version=status.policy_version or 0,
        actors=tuple(map(_actor_of, status.actors)),
        ledger=msgspec.to_builtins(status.ledger),
        causes=dict(status.causes),
        scored={source: (one.num_trajectories, one.reward_sum) for source, one in status.buffer.scored.items()},
        mixture=dict(status.changes.mixture),
        paused_sources=status.paused_sources,
        disk_free_bytes=free_bytes,
        disk_total_bytes=total_bytes,
    )


def _actor_of(actor: ActorStatus) -> ActorSample:
    figures = msgspec.structs.asdict(actor.counters) if actor.counters is not None else {}
    return ActorSample(
        actor_id=actor.actor_id,
        role=actor.role,
        state=actor.state,
        wait=actor.wait_cause,
        waiting_for=actor.waiting_for[:MAX_WORDS],
        waited_s=actor.waited_s,
        silent_s=actor.heartbeat_age_s,
        figures={name: value for name, value in figures.items() if type(value) in {int, float}},  # no booleans
    )


def _newer(kept: deque[Any], found: Iterable[_Timed]) -> list[_Timed]:
    """The records that are younger than what is kept; records without a time are left out."""
    last = kept[-1].time if kept else -math.inf
    return [one for one in found if one.time is not None and one.time > last]


def _disk(path: Path) -> tuple[int | None, int | None]:
    """Free and total bytes of the disk of a folder; None where it cannot be asked."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, None
    return usage.free, usage.total

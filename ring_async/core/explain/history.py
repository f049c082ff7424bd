"""What is known about a run when somebody asks why: samples of the fleet, steps, events, and the run's limits.

Owns: the types that rules read, and their form on disk (recordings of tests). Does not own who collects them.
Invariants: times are seconds since the epoch; totals grow until their process is replaced; a figure that nobody
reported is missing or None, never 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.roster import Role


class ActorSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One actor at one moment. `figures` are the numbers of its newest heartbeat."""

    actor_id: str
    role: Role | None
    state: ActorState | None = ActorState.RUNNING
    wait: WaitCause = WaitCause.NONE
    """The cause of its longest wait; `NONE`: it works."""
    waiting_for: str = ""
    waited_s: float = 0.0
    silent_s: float | None = None
    """Seconds since it was last heard; None: never."""
    figures: dict[str, float] = {}


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fleet at one moment."""

    time: float
    uptime_s: float
    """Of the controller, by the monotonic clock."""
    state: RunState | None = RunState.RUNNING
    policy_version: int = 0
    actors: tuple[ActorSample, ...] = ()
    ledger: dict[str, int] = {}
    """Trajectories by state; `reserved` counts all that there ever were."""
    causes: dict[str, int] = {}
    """Ended trajectories, by `state(cause)`."""
    scored: dict[str, tuple[int, float]] = {}
    """By source: scored trajectories, and the sum of their rewards."""
    mixture: dict[str, float] = {}
    paused_sources: tuple[str, ...] = ()
    disk_free_bytes: int | None = None
    disk_total_bytes: int | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a `metrics.jsonl` line that rules read; units as there."""

    policy_version: int
    time: float
    incarnation: int = 0
    step_s: float | None = None
    wait_batch_s: float | None = None
    publish_s: float | None = None
    loss_tokens: int | None = None
    reward_by_source: dict[str, float] | None = None
    effective_sample_size: float | None = None
    nonfinite_tokens: int | None = None
    behavior_ratio_masked: float | None = None
    policy_ratio_clipped: float | None = None
    entropy: float | None = None
    mismatch_kl: float | None = None


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `events.jsonl`."""

    time: float
    kind: str
    author: str = ""
    details: dict[str, Any] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's configuration allows, live changes included."""

    mode: str = "async"
    group_size: int = 1
    max_tokens: int = 0
    """Longest response."""
    max_staleness: int = 0
    checkpoint_every: int = 0
    evaluation_every: int = 0
    heartbeat_timeout_s: float = 30.0
    on_update: str = "keep"
    """What a swap of weights does to requests under way."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A run up to now, oldest first: the moment of the newest sample."""

    limits: Limits
    samples: tuple[Sample, ...] = ()
    steps: tuple[Step, ...] = ()
    events: tuple[Happening, ...] = ()


# Made at import, like every decoder: see docs/dependencies.md, msgspec.
_step_decoder = msgspec.msgpack.Decoder(Step)
_happening_decoder = msgspec.msgpack.Decoder(Happening)


def read_step(line: dict[str, Any]) -> Step | None:
    """The step of a `metrics.jsonl` line; None if the line has no version, no time, or a figure of the wrong type."""
    try:
        return _step_decoder.decode(msgspec.msgpack.encode(line))
    except msgspec.ValidationError:
        return None


def read_happening(line: dict[str, Any]) -> Happening | None:
    """The event of an `events.jsonl` line; None if it has no time or kind."""
    details = {key: value for key, value in line.items() if key not in {"time", "kind", "author"}}
    known = {key: line[key] for key in ("time", "kind", "author") if key in line}
    try:
        return _happening_decoder.decode(msgspec.msgpack.encode(known | {"details": details}))
    except msgspec.ValidationError:
        return None

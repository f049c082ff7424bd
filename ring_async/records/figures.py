"""The figures that actors report of themselves: in heartbeats, and in replay's reports of its buffer.

    rollout ──RolloutFigures──▶ Heartbeat ──▶ controller ──▶ ActorStatus.counters in `/v1/status`
    replay  ──BufferTotals────▶ BufferReported ──▶ controller: admission, `RunStatus.buffer`, `metrics.jsonl`

Owns: which figures a role reports, with their units. Does not own when they are sent (`actors.base`,
`actors.replay.reports`), nor how people see them (`records.status`).
Invariants: totals only grow while a process lives, and begin anew with its successor. Encoded, a heartbeat's figures
carry the field `role`, which says which struct they are; a figure that is still unknown is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class _RoleFigures(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="role"):
    """Figures of one role."""


class RolloutFigures(_RoleFigures, frozen=True, tag="rollout"):
    generated_tokens: int = 0
    """Response tokens sampled since the process began."""
    busy_s: float = 0.0
    """Seconds in which the engine computed."""
    running: int = 0
    """Responses being sampled."""
    capacity: int = 0
    """Responses that can be sampled at once."""
    groups_in_flight: int = 0
    policy_version: int | None = None
    """Number of the version sampled from; None before the first."""


class RewardFigures(_RoleFigures, frozen=True, tag="reward"):
    verdicts: int = 0
    busy_s: float = 0.0
    """Seconds spent in judging, summed over groups judged at once."""
    swap_wait_s: float = 0.0
    """Seconds that groups waited for a verifier to be put in force."""


class ReplayFigures(_RoleFigures, frozen=True, tag="replay"):
    groups: int = 0
    trainable_tokens: int = 0
    next_plan_number: int = 0
    pending_groups: int = 0
    """Groups that arrived and are not durable yet."""
    rescored_groups: int = 0
    swap_wait_s: float = 0.0
    commits: int = 0
    ended: dict[str, int] = {}
    """Trajectories by state, and by `state_cause`, that the shard moved since the process began."""


class LearnerFigures(_RoleFigures, frozen=True, tag="learner"):
    steps: int = 0
    busy_s: float = 0.0
    policy_version: int | None = None
    is_starved: bool = False
    """Whether there is nothing to train until replay has a batch."""


class EvaluatorFigures(_RoleFigures, frozen=True, tag="evaluator"):
    policy_version: int | None = None
    answered: int = 0
    answers_wanted: int = 0


ActorFigures = RolloutFigures | RewardFigures | ReplayFigures | LearnerFigures | EvaluatorFigures


class ScoredTotals(msgspec.Struct, frozen=True):
    """The scored trajectories of one source that arrived in replay, with a signal or without."""

    num_trajectories: int = 0
    reward_sum: float = 0.0

    def __add__(self, other: ScoredTotals) -> ScoredTotals:
        return ScoredTotals(self.num_trajectories + other.num_trajectories, self.reward_sum + other.reward_sum)

    def __sub__(self, other: ScoredTotals) -> ScoredTotals:
        return ScoredTotals(self.num_trajectories - other.num_trajectories, self.reward_sum - other.reward_sum)

    @property
    def reward_mean(self) -> float:
        """Mean reward; 0 without a trajectory."""
        return self.reward_sum / self.num_trajectories if self.num_trajectories else 0.0


class BufferTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one replay shard, or of all shards together (`total`)."""

    buffer_tokens: int = 0
    """Response tokens kept and not yet trained."""
    buffer_trajectories: int = 0
    next_plan_number: int = 0
    is_learner_waiting: bool = False
    """Whether a question of the learner waits for tokens; admission then grants although the buffer is short."""
    evicted: int = 0
    """Trajectories that were evicted since the process began."""
    scored: dict[str, ScoredTotals] = {}
    """By source, since the process began."""


def total(reports: Iterable[BufferTotals]) -> BufferTotals:
    """The totals over all shards. The next plan is the newest that any shard knows of."""
    reports = list(reports)
    scored: dict[str, ScoredTotals] = {}
    for report in reports:
        for source, one in report.scored.items():
            scored[source] = scored.get(source, ScoredTotals()) + one
    return BufferTotals(
        buffer_tokens=sum(report.buffer_tokens for report in reports),
        buffer_trajectories=sum(report.buffer_trajectories for report in reports),
        next_plan_number=max((report.next_plan_number for report in reports), default=0),
        is_learner_waiting=any(report.is_learner_waiting for report in reports),
        evicted=sum(report.evicted for report in reports),
        scored=scored,
    )


def scored_since(before: Mapping[str, ScoredTotals], now: Mapping[str, ScoredTotals]) -> dict[str, ScoredTotals]:
    """What was scored between two reports, by source; sources without a new trajectory are left out.

    A count that fell means that a shard was restarted: its totals began anew, and its present ones are the increase.
    """
    increase = {}
    for source, one in now.items():
        more = one - before.get(source, ScoredTotals())
        if more.num_trajectories < 0:
            more = one
        if more.num_trajectories > 0:
            increase[source] = more
    return increase

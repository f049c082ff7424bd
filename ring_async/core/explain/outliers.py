"""Rules over one actor that does worse than the others of its role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from ring_async.core.explain.finding import Cause, Finding, Gravity, seconds
from ring_async.core.explain.growth import figure_growth, figure_mean, seconds_a_unit
from ring_async.core.explain.view import View
from ring_async.core.roster import Role

SLOW_ROLLOUT = 0.5
SLOW_REWARD = 3.0
LEAST_VERDICT_S = 0.5
"""A verdict that takes less is quick enough, however quick the others are."""
LATE_VERSIONS = 2.0


def imbalance(view: View) -> Iterator[Finding]:
    """One rollout samples far slower than the others while it works as much."""
    actors = view.actors(Role.ROLLOUT)
    if not view.has_rates or len(actors) < 2:
        return
    paces = {}
    for actor_id, actor in actors.items():
        tokens, busy_s = figure_growth(actor, "generated_tokens"), figure_growth(actor, "busy_s")
        running = figure_mean(actor, "running")
        if tokens is not None and busy_s and running:
            paces[actor_id] = tokens / busy_s / running
    if len(paces) < 2:
        return
    slowest = min(paces, key=lambda name: paces[name])
    others = sorted(pace for name, pace in paces.items() if name != slowest)
    median = others[len(others) // 2]
    if paces[slowest] <= SLOW_ROLLOUT * median:
        yield Finding(
            cause=Cause.IMBALANCE, gravity=Gravity.SYMPTOM, who=slowest,
            what=f"{slowest} samples {paces[slowest]:,.0f} tokens/s a response, the other rollouts {median:,.0f}.",
            remedy="Look at its host: another process on its GPU or cores, a throttled card, or swapping.",
        )  # fmt: skip


def slow_reward(view: View) -> Iterator[Finding]:
    """One reward actor needs far longer for a verdict than the others."""
    if not view.has_rates:
        return
    spent = {
        actor_id: seconds_a_unit(actor, "busy_s", "verdicts")
        for actor_id, actor in view.recent_actors(Role.REWARD).items()
    }
    paces = {actor_id: pace_s for actor_id, pace_s in spent.items() if pace_s is not None}
    slowest, others_s = _extreme(paces)
    if slowest and paces[slowest] >= max(LEAST_VERDICT_S, SLOW_REWARD * others_s):
        yield Finding(
            cause=Cause.SLOW_REWARD, gravity=Gravity.SYMPTOM, who=slowest,
            what=f"{slowest} takes {seconds(paces[slowest])} a verdict, the other reward actors {seconds(others_s)}: "
            "its groups come late.",
            remedy=f"Look at its host and its log (ring-async logs {slowest}): another process, a slow sandbox, or a "
            "judge that it reaches badly.",
        )  # fmt: skip


def late_weights(view: View) -> Iterator[Finding]:
    """One rollout takes versions up far later than the others."""
    if not view.has_rates or view.limits.mode == "sync":
        return
    behind: dict[str, list[float]] = {}
    for sample in view.recent:
        for one in sample.actors:
            if one.role == Role.ROLLOUT and one.silent_s is not None and "policy_version" in one.figures:
                lag = max(0.0, sample.policy_version - one.figures["policy_version"])
                behind.setdefault(one.actor_id, []).append(lag)
    lags = {actor_id: sum(values) / len(values) for actor_id, values in behind.items()}
    latest, others = _extreme(lags)
    if latest and lags[latest] >= others + LATE_VERSIONS and lags[latest] >= view.limits.max_staleness / 2:
        yield Finding(
            cause=Cause.LATE_WEIGHTS, gravity=Gravity.SYMPTOM, who=latest,
            what=f"{latest} samples with weights {lags[latest]:.1f} versions behind the learner, the other rollouts "
            f"{others:.1f}: it takes new versions up slowly.",
            remedy="Look at the network between it and the learner, and at ring_rollout_stage_seconds.",
        )  # fmt: skip


def _extreme(values: Mapping[str, float]) -> tuple[str, float]:
    """The actor with the largest value, and the median of the others; no actor where there are fewer than two."""
    if len(values) < 2:
        return "", 0.0
    largest = max(values, key=lambda name: values[name])
    return largest, median(value for name, value in values.items() if name != largest)

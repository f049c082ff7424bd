"""Rules over versions on their way to the rollouts: published, staged, and how old what is trained has become."""

from __future__ import annotations

from collections.abc import Iterator

from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, seconds, share
from ring_async.core.explain.growth import completed_growth, ended_growth, span_s
from ring_async.core.explain.view import View
from ring_async.core.roster import Role

LAG_SAMPLES = 3
EVICTED_SHARE = 0.15
LEAST_EVICTION_S = 120.0
"""The first versions of a run follow each other quickly, and what was sampled for them at once grows old at once."""
PUBLISH_SHARE = 0.8
MISMATCH_KL = 0.05
"""Nats a token; formats and kernels alone make a few thousandths."""


def stale_weights(view: View) -> Iterator[Finding]:
    """A rollout holds weights older than the staleness bound, sample after sample: it cannot take new ones up."""
    if not view.has_rates or view.limits.mode == "sync":
        return
    for actor_id, actor in view.actors(Role.ROLLOUT).items():
        lags = [
            sample.policy_version - held
            for sample in view.window[-LAG_SAMPLES:]
            for one in sample.actors
            if one.actor_id == actor_id and (held := one.figures.get("policy_version", -1.0)) >= 0
        ]
        if len(lags) < LAG_SAMPLES or min(lags) <= view.limits.max_staleness or actor[-1].silent_s is None:
            continue
        held = actor[-1].figures["policy_version"]
        taken_up = next(
            sample.time
            for sample in view.samples
            for one in sample.actors
            if one.actor_id == actor_id and one.figures.get("policy_version") == held
        )
        yield Finding(
            cause=Cause.STALE_WEIGHTS, gravity=Gravity.FAULT, who=actor_id,
            what=f"{view.starved_words}{actor_id} holds weights of version {held:.0f}, {lags[-1]:.0f} behind the "
            f"learner, since {clock(taken_up)}; past replay.max_staleness {view.limits.max_staleness} it gets no work.",
            remedy=f"It cannot fetch newer ones; its log says why: ring-async logs {actor_id}",
        )  # fmt: skip


def slow_channel(view: View) -> Iterator[Finding]:
    """Publishing a version takes as long as the time between two steps: the learner waits for the channel."""
    publish_s, period_s, step_s = view.mean(lambda one: one.publish_s), view.period_s, view.mean(lambda one: one.step_s)
    if not view.has_rates or publish_s is None or not period_s or step_s is None:
        return
    if publish_s / period_s >= PUBLISH_SHARE and publish_s > 1.5 * step_s and publish_s >= 0.5:
        yield Finding(
            cause=Cause.SLOW_CHANNEL, gravity=Gravity.SYMPTOM,
            what=f"Publishing a version takes {seconds(publish_s)}, a step {seconds(step_s)}: the learner waits for "
            "the weight channel between steps.",
            remedy="Use a faster weights.channel (shm on one host, nccl between GPUs), or larger batches "
            "(budget.token_budget).",
        )  # fmt: skip


def evictions(view: View) -> Iterator[Finding]:
    """Much of what is sampled grows too old before it is trained. In sync mode a batch's rest goes by rule."""
    if view.limits.mode == "sync" or not view.has_rates or span_s(view.recent) < LEAST_EVICTION_S:
        return
    if (ended := completed_growth(view.recent)) < 20:
        return
    evicted = ended_growth(view.recent, "evicted")
    if evicted / ended >= EVICTED_SHARE:
        yield Finding(
            cause=Cause.EVICTIONS, gravity=Gravity.SYMPTOM,
            what=f"{share(evicted / ended)} of the trajectories of {view.recent_words} grew older than "
            f"replay.max_staleness {view.limits.max_staleness} before they were trained, and were thrown away.",
            remedy="Lower the number of rollouts, or raise replay.max_staleness or budget.token_budget.",
        )  # fmt: skip


def mismatch(view: View) -> Iterator[Finding]:
    """Engine and learner disagree about tokens of the very version that is trained."""
    kl = view.mean(lambda one: one.mismatch_kl)
    if view.has_rates and kl is not None and kl >= MISMATCH_KL:
        keep = view.limits.on_update == "keep"
        yield Finding(
            cause=Cause.MISMATCH, gravity=Gravity.SYMPTOM,
            what=f"Engine and learner disagree about the same weights: {kl:.2g} nats a token over the last steps.",
            remedy="Responses go on over keys and values of older weights: set rollout.on_update=reprefill, or bound "
            "their age (rollout.max_kv_age)."
            if keep
            else "Their number formats or kernels differ: see docs/algorithm.md on the mismatch.",
        )  # fmt: skip

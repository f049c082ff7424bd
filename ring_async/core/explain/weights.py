"""Rules over versions on their way to the rollouts: published, staged, and how old what is trained has become."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, seconds, share
from ring_async.core.explain.growth import completed_growth, ended_growth, figure_growth, figure_mean
from ring_async.core.explain.view import View
from ring_async.core.roster import Role

LAG_SAMPLES = 3
EVICTED_SHARE = 0.15
PUBLISH_SHARE = 0.8
MISMATCH_KL = 0.05
"""Nats a token; formats and kernels alone make a few thousandths."""
CHECKPOINT_SHARE = 0.1
SLOW_ROLLOUT = 0.5


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


def slow_checkpoint(view: View) -> Iterator[Finding]:
    """The learner stands still while it writes checkpoints, for a good part of its time."""
    every, period_s = view.limits.checkpoint_every, view.period_s
    if not view.has_rates or not every or not period_s:
        return
    at_checkpoint: list[float] = []
    elsewhere: list[float] = []
    for before, now in pairwise(view.warm_steps[-2 * every :]):
        spent = (now.step_s or 0.0) + (now.wait_batch_s or 0.0)
        gap_s = max(0.0, now.time - before.time - spent)
        (elsewhere if before.policy_version % every else at_checkpoint).append(gap_s)
    if not at_checkpoint or not elsewhere:
        return
    took_s = sum(at_checkpoint) / len(at_checkpoint) - sum(elsewhere) / len(elsewhere)
    part = took_s / (every * period_s)
    if took_s >= 1.0 and part >= CHECKPOINT_SHARE:
        yield Finding(
            cause=Cause.SLOW_CHECKPOINT, gravity=Gravity.SYMPTOM,
            what=f"The learner stands still {seconds(took_s)} for each checkpoint, {share(part)} of its time.",
            remedy=f"Raise checkpoint.every_versions (now {every}), or give checkpoints/ a faster disk.",
        )  # fmt: skip


def evictions(view: View) -> Iterator[Finding]:
    """Much of what is sampled grows too old before it is trained."""
    if not view.has_rates or (ended := completed_growth(view.recent)) < 20:
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

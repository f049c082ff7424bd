"""Rules over the learner's own time: its steps and its checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import median

from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, seconds, share, times
from ring_async.core.explain.view import NUM_LAST_STEPS, View

CHECKPOINT_SHARE = 0.1
SLOWER_STEP = 2.5
LEAST_SLOWER_S = 0.5


def slow_step(view: View) -> Iterator[Finding]:
    """A step takes far longer than steps of as many tokens took before."""
    last = [one for one in view.last_steps if one.step_s is not None]
    if not view.has_rates or len(last) < NUM_LAST_STEPS // 2:
        return
    tokens, since = last[-1].loss_tokens, last[0].time
    earlier = [
        one.step_s for one in view.steps if one.time < since and one.step_s is not None and one.loss_tokens == tokens
    ]
    if len(earlier) < 2 * NUM_LAST_STEPS:
        return
    # the lower half: the figures before may hold slow steps, too
    was_s, now_s = median(sorted(earlier)[: len(earlier) // 2]), median(one.step_s or 0.0 for one in last)
    if now_s >= SLOWER_STEP * was_s and now_s - was_s >= LEAST_SLOWER_S:
        slow = itertools.takewhile(lambda one: (one.step_s or 0.0) >= now_s / 2, reversed(view.steps))
        *_, first = slow
        yield Finding(
            cause=Cause.SLOW_STEP, gravity=Gravity.SYMPTOM,
            what=f"A step takes {times(now_s / was_s)} longer than before, {seconds(now_s)} instead of "
            f"{seconds(was_s)}, for as many tokens (since {clock(first.time)}).",
            remedy="Look at the learner's host: another process on its GPU or cores, a throttled card, or swapping.",
        )  # fmt: skip


def slow_checkpoint(view: View) -> Iterator[Finding]:
    """The learner stands still while it writes checkpoints, for a good part of its time."""
    every, period_s = view.limits.checkpoint_every, view.period_s
    if not view.has_rates or not every or not period_s:
        return
    at_checkpoint: list[float] = []
    elsewhere: list[float] = []
    for before, now in itertools.pairwise(view.warm_steps[-2 * every :]):
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

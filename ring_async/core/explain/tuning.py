"""Rules over a run in which nothing is wrong, and something could be used better."""

from __future__ import annotations

from collections.abc import Iterator

from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.finding import Cause, Finding, Gravity, seconds, share, times
from ring_async.core.explain.growth import figure_mean, seconds_a_unit, span_s
from ring_async.core.explain.history import ActorSample
from ring_async.core.explain.view import View
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role

FED_SHARE = 0.05
USED_SHARE = 0.3
WAITING_SHARE = 0.5
OVERLOAD = 2.0
_SWAPS = (EventKind.VERIFIER_SWAPPED, EventKind.VERIFIER_ROLLED_BACK)


def learner_bound(view: View) -> Iterator[Finding]:
    """The learner never waits, and most of what rollouts could sample is not asked for."""
    if view.limits.mode == "sync" or view.wait_share is None or view.wait_share > FED_SHARE:
        return
    used = view.slots_used
    if used is None or used > USED_SHARE or view.share_waiting(Role.ROLLOUT, WaitCause.RESERVATION) < WAITING_SHARE:
        return
    yield Finding(
        cause=Cause.LEARNER_BOUND, gravity=Gravity.TIP,
        what=f"The learner is the limit: it trained {share(1 - view.wait_share)} of {view.window_words}, while "
        f"{share(1 - used)} of the rollouts' slots were empty.",
        remedy="Give the learner more (learner.num_ranks, a larger GPU), or save rollouts: ring-async scale rollout N",
    )  # fmt: skip


def overloaded_reward(view: View) -> Iterator[Finding]:
    """A reward actor judges more at once than before, each verdict takes longer, and no more come out."""
    if not view.has_rates or any(one.kind in _SWAPS for one in view.events):
        return  # another verifier, another pace
    half = len(view.samples) // 2
    for actor_id, now in view.actors(Role.REWARD).items():
        before = view.actors_before(Role.REWARD, view.samples[half].time).get(actor_id, [])
        later = [one for one in now if one not in before]
        was, now_is = _load(before, view), _load(later, view)
        if was is None or now_is is None:
            continue
        (was_s, was_rate), (now_s, now_rate) = was, now_is
        if now_s >= OVERLOAD * was_s and now_s * now_rate >= OVERLOAD * was_s * was_rate and now_rate <= 1.2 * was_rate:
            yield Finding(
                cause=Cause.OVERLOADED_REWARD, gravity=Gravity.SYMPTOM, who=actor_id,
                what=f"{actor_id} judges {times(now_s * now_rate / (was_s * was_rate))} as many groups at once as "
                f"before; a verdict takes {seconds(now_s)} instead of {seconds(was_s)}, and no more come out.",
                remedy="Lower reward.credits, or scale reward (ring-async scale reward N).",
            )  # fmt: skip


def _load(actor: list[ActorSample], view: View) -> tuple[float, float] | None:
    """Seconds a verdict, and verdicts a sample."""
    pace_s = seconds_a_unit(actor, "busy_s", "verdicts")
    if pace_s is None or len(actor) < 4:
        return None
    verdicts = [one.figures["verdicts"] for one in actor if "verdicts" in one.figures]
    rate = (verdicts[-1] - verdicts[0]) / max(1, len(actor) - 1) / max(span_s(view.window) / len(view.window), 1e-9)
    return (pace_s, rate) if rate > 0 and pace_s > 0 and figure_mean(actor, "verdicts") else None

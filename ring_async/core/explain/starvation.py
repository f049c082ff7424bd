"""The rule over a learner that waits: which stage before it holds it up, looked for from the learner upstream.

    learner ◀── replay (commits) ◀── reward (verdicts) ◀── rollouts (weights, length, engines) ◀── admission

Owns: the order of the suspects. The first that the figures prove is named, and none else: what lies above a slow stage
waits, too, and is innocent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, seconds, share, times
from ring_async.core.explain.growth import (
    completed_growth,
    figure_growth,
    figure_mean,
    seconds_a_unit,
    span_s,
)
from ring_async.core.explain.history import ActorSample, Happening, Sample
from ring_async.core.explain.view import RECENT_S, View
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role

HELD_BACK_S = 2.0
"""Seconds that sampled groups wait to be judged and committed; above it, what follows the engines is slower than they
are.
"""
SLOWER = 1.8
"""Factor above which something counts as slower or longer than before."""
IDLE_SHARE = 0.35
WAITING_SHARE = 0.35


def starved_learner(view: View) -> Iterator[Finding]:
    """Say why the learner waits, if it does and the figures show why."""
    if not view.is_starved:
        return
    for suspect in SUSPECTS:
        if (finding := suspect(view)) is not None:
            yield finding
            return


def _symptom(view: View, cause: Cause, what: str, remedy: str, who: str = "") -> Finding:
    gravity = Gravity.TIP if cause == Cause.GENERATION_BOUND else Gravity.SYMPTOM
    return Finding(cause=cause, gravity=gravity, what=f"{view.starved_words}{what}", remedy=remedy, who=who)


# -- replay


def _slow_commits(view: View) -> Finding | None:
    """Judged groups wait for replay's commit."""
    if view.held_back_s < HELD_BACK_S or view.share_waiting(Role.REWARD, WaitCause.COMMIT) < WAITING_SHARE:
        return None
    actors = view.recent_actors(Role.REPLAY)
    pending = {name: figure_mean(actor, "pending_groups") or 0.0 for name, actor in actors.items()}
    slowest = max(pending, key=lambda name: pending[name], default=Role.REPLAY)
    return _symptom(
        view, Cause.SLOW_COMMITS,
        f"{pending.get(slowest, 0.0):.0f} judged groups wait for {slowest} to commit them.",
        "Give replay/ a faster disk, or raise replay.commit_interval_s so that more groups share one sync.",
        slowest,
    )  # fmt: skip


# -- reward


def _slow_verifier(view: View) -> Finding | None:
    """Sampled groups wait for reward actors, which do not wait themselves."""
    if view.held_back_s < HELD_BACK_S:
        return None
    change = _last_swap(view)
    since = change.time if change is not None else view.window[len(view.window) // 2].time
    slowest, pace_s = _slowest(view.actors_after(Role.REWARD, since))
    if pace_s is None:
        return None
    earlier_s = seconds_a_unit(view.actors_before(Role.REWARD, since).get(slowest, []), "busy_s", "verdicts")
    remedy = "Scale reward (ring-async scale reward N), or make the verifier faster."
    what = f"{slowest} takes {seconds(pace_s)} a verdict, and sampled groups wait {seconds(view.held_back_s)} for it."
    if earlier_s and pace_s / earlier_s >= SLOWER:
        named = ""
        if change is not None:
            verifier, epoch = change.details.get("verifier", ""), (change.details.get("after") or {}).get("epoch", "?")
            named = f" since verifier {verifier} epoch {epoch} ({clock(change.time)})"
            remedy = (
                f"Roll back (ring-async rollback verifier {verifier}), or scale reward (ring-async scale reward N)."
            )
        what = f"{slowest} judges {times(pace_s / earlier_s)} slower{named}: {seconds(pace_s)} a verdict."
    return _symptom(view, Cause.SLOW_VERIFIER, what, remedy, slowest)


def _slowest(actors: dict[str, list[ActorSample]]) -> tuple[str, float | None]:
    paces = {name: seconds_a_unit(actor, "busy_s", "verdicts") for name, actor in actors.items()}
    known = {name: pace for name, pace in paces.items() if pace is not None}
    slowest = max(known, key=lambda name: known[name], default="")
    return slowest, known.get(slowest)


def _last_swap(view: View) -> Happening | None:
    swaps = [one for one in view.events if one.kind in {EventKind.VERIFIER_SWAPPED, EventKind.VERIFIER_ROLLED_BACK}]
    return swaps[-1] if swaps else None


# -- rollouts


def _long_responses(view: View) -> Finding | None:
    """Engines are busy, and responses are longer than they were. A run's first completed ones are its short ones."""
    if span_s(view.samples) < RECENT_S:
        return None
    length, earlier = mean_length(view.window[len(view.window) // 2 :]), mean_length(_first_third(view))
    if length is None or earlier is None or length / earlier < SLOWER or (view.engine_busy_share or 0.0) < 0.5:
        return None
    limit = view.limits.max_tokens
    return _symptom(
        view, Cause.LONG_RESPONSES,
        f"responses grew {times(length / earlier)}, from {earlier:,.0f} to {length:,.0f} tokens in the mean "
        f"(rollout.max_tokens {limit:,}), and the engines are busy.",
        "Scale rollout (ring-async scale rollout N), lower rollout.max_tokens, or let a length bias in the reward hold "
        "them short.",
    )  # fmt: skip


def mean_length(samples: Sequence[Sample]) -> float | None:
    """Mean response tokens of the trajectories that were completed between the samples."""
    completed = completed_growth(samples) if len(samples) > 1 else 0
    if completed < 8:
        return None
    rollouts: dict[str, list[ActorSample]] = {}
    for sample in samples:
        for actor in sample.actors:
            if actor.role == Role.ROLLOUT:
                rollouts.setdefault(actor.actor_id, []).append(actor)
    return sum(figure_growth(actor, "generated_tokens") or 0.0 for actor in rollouts.values()) / completed


def _first_third(view: View) -> list[Sample]:
    began = view.samples[0].time
    return [one for one in view.samples if one.time <= began + (view.now - began) / 3]


def _small_admission(view: View) -> Finding | None:
    """Engines stand idle for want of reservations while the learner waits for what they would make."""
    if view.limits.mode == "sync" or view.slots_used is None:
        return None
    idle, waiting = 1.0 - view.slots_used, view.share_waiting(Role.ROLLOUT, WaitCause.RESERVATION)
    if idle < IDLE_SHARE or waiting < WAITING_SHARE:
        return None
    return _symptom(
        view, Cause.SMALL_ADMISSION,
        f"admission is too small: rollouts waited for a reservation {share(waiting)} of the time, and {share(idle)} of "
        "their slots were empty.",
        f"Raise replay.max_staleness (now {view.limits.max_staleness}) or budget.token_budget, or "
        "replay.max_buffer_tokens if it is set.",
    )  # fmt: skip


def _generation_bound(view: View) -> Finding | None:
    """Engines work all the time and it is not enough; nothing else is wrong."""
    if (view.engine_busy_share or 0.0) < 0.85 or (view.slots_used or 0.0) < 0.6:
        return None
    num = len(view.actors(Role.ROLLOUT))
    rate = sum(figure_growth(actor, "generated_tokens") or 0.0 for actor in view.actors(Role.ROLLOUT).values())
    return _symptom(
        view, Cause.GENERATION_BOUND,
        f"{num} rollout{'s' if num > 1 else ''} sample{'' if num > 1 else 's'} "
        f"{rate / span_s(view.window):,.0f} tokens/s without a pause, and the learner trains faster.",
        f"Have more: ring-async scale rollout {num + 1}",
    )  # fmt: skip


SUSPECTS: tuple[Callable[[View], Finding | None], ...] = (
    _slow_commits,
    _slow_verifier,
    _long_responses,
    _small_admission,
    _generation_bound,
)

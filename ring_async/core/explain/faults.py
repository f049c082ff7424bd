"""Rules over what is broken: the run stands, or lost a part of itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, listed, seconds, share
from ring_async.core.explain.growth import completed_growth, ended_growth
from ring_async.core.explain.history import ActorSample, Happening
from ring_async.core.explain.view import WINDOW_S, View
from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.roster import Role, id_of

DISK_FREE_SHARE = 0.03
CLOCK_JUMP_S = 5.0
CRASH_LOOP = 2
STARTING_S = 20.0
"""An actor that was lost and is not back after this long is named."""
FAILED_SHARE = 0.05

_DISK_WORDS = ("disk space", "No space left", "bytes needed", "Disk quota", "MapFull", "MDB_MAP_FULL")


def paused(view: View) -> Iterator[Finding]:
    """The run is paused: by whom, since when."""
    if view.newest.state != RunState.PAUSED:
        return
    asked = [one for one in view.events if one.kind == EventKind.PAUSED]
    by = f" by {asked[-1].author} since {clock(asked[-1].time)}" if asked else ""
    yield Finding(
        cause=Cause.PAUSED, gravity=Gravity.FAULT, what=f"The run is paused{by}: nothing is granted or trained.",
        remedy="Go on with: ring-async resume",
    )  # fmt: skip


def run_failed(view: View) -> Iterator[Finding]:
    """The run ended, or is ending, with an error; divergence and full disks have a sentence of their own."""
    failures = [one for one in view.events if one.kind == EventKind.FAILED]
    if not failures:
        return
    reason = str(failures[-1].details.get("reason", ""))
    if "DivergedError" in reason:
        yield Finding(
            cause=Cause.DIVERGED, gravity=Gravity.FAULT,
            what=f"The model diverged at version {view.newest.policy_version} ({clock(failures[-1].time)}): {reason}.",
            remedy="Go on from the last checkpoint with a smaller learner.learning_rate: ring-async up CONFIG --resume",
        )  # fmt: skip
    elif not any(word in reason for word in _DISK_WORDS):
        yield Finding(
            cause=Cause.RUN_FAILED, gravity=Gravity.FAULT,
            what=f"The run failed at {clock(failures[-1].time)}: {reason}.",
            remedy="The actor's log says more: ring-async logs",
        )  # fmt: skip


def full_disk(view: View) -> Iterator[Finding]:
    """Replay waits for space, an actor failed for want of it, or the run's disk is almost full."""
    waiting = [one for one in view.newest.actors if one.wait == WaitCause.DISK]
    failed = [
        one for one in view.recent_events(EventKind.ACTOR_FAILED, EventKind.FAILED)
        if any(word in f"{one.details}" for word in _DISK_WORDS)
    ]  # fmt: skip
    free, total = view.newest.disk_free_bytes, view.newest.disk_total_bytes
    is_short = free is not None and bool(total) and free / (total or 1) < DISK_FREE_SHARE
    left = f" ({(free or 0) / 1e9:.1f} GB left)" if is_short else ""
    remedy = "Free space: older runs' replay/ and checkpoints/ are the largest; checkpoint.keep bounds this run's."
    if waiting:
        one = waiting[0]
        what = (
            f"{view.starved_words}the disk is full{left}: {one.actor_id} has waited {seconds(one.waited_s)} for space."
        )
        yield _disk(what, remedy, one.actor_id)
    elif failed:
        who = str(failed[-1].author)
        yield _disk(f"The disk is full{left}: {who} could not write at {clock(failed[-1].time)}.", remedy, who)
    elif is_short:
        yield _disk(
            f"The run's disk is almost full: {(free or 0) / 1e9:.1f} of {(total or 0) / 1e9:.0f} GB are left.",
            remedy,
            "",
        )


def _disk(what: str, remedy: str, who: str) -> Finding:
    return Finding(cause=Cause.FULL_DISK, gravity=Gravity.FAULT, what=_begin(what), remedy=remedy, who=who)


def dead_actor(view: View) -> Iterator[Finding]:
    """An actor that should run is silent, does not come back, or dies again and again."""
    if view.newest.state not in {RunState.RUNNING, RunState.PAUSED}:
        return
    lost: dict[str, list[Happening]] = {}
    for one in view.recent_events(EventKind.ACTOR_LOST):
        lost.setdefault(str(one.details.get("actor")), []).append(one)
    for actor in view.newest.actors:
        why = _why_dead(view, actor, lost.get(actor.actor_id, []))
        if why:
            yield Finding(
                cause=Cause.DEAD_ACTOR, gravity=Gravity.FAULT, who=actor.actor_id,
                what=_begin(f"{view.starved_words}{actor.actor_id} {why}."),
                remedy=f"Its log says why: ring-async logs {actor.actor_id}",
            )  # fmt: skip


def _why_dead(view: View, actor: ActorSample, notices: list[Happening]) -> str:
    died = f" since it died at {clock(notices[-1].time)}" if notices else ""
    if actor.silent_s is None and actor.state == ActorState.WAITING:
        return f"cannot start{died}: it waits for {actor.waiting_for}" if actor.waited_s > STARTING_S else ""
    if actor.silent_s is None:
        gone_s = view.now - notices[-1].time if notices else 0.0
        return f"is not back{died}" if gone_s > STARTING_S or len(notices) >= CRASH_LOOP else ""
    if actor.silent_s > view.limits.heartbeat_timeout_s / 2:
        return f"has not been heard for {seconds(actor.silent_s)}"
    if len(notices) >= CRASH_LOOP:
        return f"died {len(notices)} times in {view.window_words}, the last time at {clock(notices[-1].time)}"
    return ""


def failing_verifier(view: View) -> Iterator[Finding]:
    """A verifier cannot judge: its sources were paused, or many of its trajectories fail."""
    if sources := list(view.newest.paused_sources):
        reasons = [one for one in view.events if one.kind == EventKind.DOMAIN_PAUSED and one.details.get("reason")]
        why = f": {reasons[-1].details['reason']}" if reasons else ""
        since = f" since {clock(reasons[-1].time)}" if reasons else ""
        many = len(sources) > 1
        yield Finding(
            cause=Cause.FAILING_VERIFIER, gravity=Gravity.FAULT, who=sources[0],
            what=f"Source{'s' if many else ''} {listed(sources)} {'are' if many else 'is'} paused{since}, because the "
            f"verifier fails{why}.",
            remedy="Repair it and put it in force: ring-async swap verifier NAME=USE; or ring-async rollback verifier "
            "NAME",
        )  # fmt: skip
    elif view.has_rates and (ended := completed_growth(view.recent)) > 0:
        failed = ended_growth(view.recent, "failed(verifier")
        if failed / ended >= FAILED_SHARE:
            names = [name for name in view.newest.causes if name.startswith("failed(verifier")]
            yield Finding(
                cause=Cause.FAILING_VERIFIER, gravity=Gravity.FAULT,
                what=f"{share(failed / ended)} of the trajectories of {view.recent_words} could not be judged: "
                f"{listed(names)}.",
                remedy="The reward actors' logs name the prompts: ring-async logs reward",
            )  # fmt: skip


def evaluator_stuck(view: View) -> Iterator[Finding]:
    """The evaluator was given up, or lies many evaluations behind and answers nothing."""
    if given_up := [one for one in view.events if one.kind == EventKind.EVALUATOR_GIVEN_UP]:
        yield Finding(
            cause=Cause.EVALUATOR_STUCK, gravity=Gravity.FAULT, who=id_of(Role.EVALUATOR, 0),
            what=f"Nothing is evaluated since {clock(given_up[-1].time)}: the evaluator was given up "
            f"({given_up[-1].details.get('reason', '')}).",
            remedy="Training goes on; ring-async eval CHECKPOINT CONFIG judges a checkpoint.",
        )  # fmt: skip
        return
    every = view.limits.evaluation_every
    for actor_id, actor in view.recent_actors(Role.EVALUATOR).items() if every and view.has_rates else ():
        behind = view.newest.policy_version - actor[-1].figures.get("policy_version", 0.0)
        answered = {sample.figures.get("answered") for sample in actor}
        if behind > 3 * every and len(answered) == 1 and actor[-1].silent_s is not None:
            yield Finding(
                cause=Cause.EVALUATOR_STUCK, gravity=Gravity.FAULT, who=actor_id,
                what=f"{actor_id} is stuck: it lies {behind:.0f} versions behind and answered nothing in "
                f"{view.window_words}.",
                remedy=f"Its log says why: ring-async logs {actor_id}",
            )  # fmt: skip


def clock_jumped(view: View) -> Iterator[Finding]:
    """The wall clock moved against the monotonic one: times of events and steps don't compare across the jump."""
    for before, now in pairwise(one for one in view.samples if one.uptime_s >= view.newest.uptime_s - WINDOW_S):
        jump_s = (now.time - before.time) - (now.uptime_s - before.uptime_s)
        if now.uptime_s > before.uptime_s and abs(jump_s) > CLOCK_JUMP_S:
            yield Finding(
                cause=Cause.CLOCK_JUMPED, gravity=Gravity.FAULT,
                what=f"The clock of the controller's host jumped {'forward' if jump_s > 0 else 'back'} by "
                f"{seconds(abs(jump_s))} at {clock(now.time)}: times before and after it don't compare.",
                remedy="Let one time service keep the host's clock.",
            )  # fmt: skip
            return


def _begin(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("the ") else sentence

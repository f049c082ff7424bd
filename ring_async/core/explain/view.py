"""A history as rules look at it: the last minutes, what went before, and how much of its time the learner waited.

Owns: the window, and the figures that several rules share. Does not own thresholds of single rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.finding import seconds, share
from ring_async.core.explain.growth import actors_of, figure_growth, figure_mean, share_waiting, span_s
from ring_async.core.explain.history import ActorSample, Happening, History, Sample, Step
from ring_async.core.fleet.states import RunState, WaitCause
from ring_async.core.roster import Role

WINDOW_S = 600.0
"""Rules speak of the last ten minutes."""
LEAST_S = 60.0
"""With less than this, a rate is noise: rules over rates say nothing."""
NUM_WARM_UP = 4
"""The first steps of a process wait for the first groups, in every run; they don't count as waiting."""
RECENT_S = 180.0
"""What holds a stage up is read from these last minutes: before them it may have been another one, or none."""
NUM_LAST_STEPS = 10
STARVED_SHARE = 0.15
"""A learner that waits for less than this share of the time is fed."""


class View:
    """One history, with the figures that rules share. Built once, read by all rules.

    view = View(history)
    view.wait_share      # 0.38, or None where too little is known
    """

    def __init__(self, history: History) -> None:
        self.limits = history.limits
        self.samples = history.samples
        self.steps = history.steps
        self.events = history.events
        self.now = history.samples[-1].time if history.samples else 0.0
        self.window: Sequence[Sample] = [one for one in self.samples if one.time >= self.now - WINDOW_S]
        self.recent_steps: Sequence[Step] = [one for one in self.steps if one.time >= self.now - WINDOW_S]

    # -- the window

    @property
    def newest(self) -> Sample:
        return self.samples[-1]

    @property
    def is_running(self) -> bool:
        """Whether work is granted and trained: neither paused nor ending."""
        return self.newest.state == RunState.RUNNING

    @cached_property
    def has_rates(self) -> bool:
        """Whether the window is long enough for rates, and the run goes on."""
        return self.is_running and span_s(self.window) >= LEAST_S

    @property
    def window_words(self) -> str:
        return f"the last {seconds(span_s(self.window)) if span_s(self.window) < 590 else '10 minutes'}"

    @property
    def recent_words(self) -> str:
        return f"the last {seconds(span_s(self.recent))}"

    def actors(self, role: Role | None) -> dict[str, list[ActorSample]]:
        """The samples of each present actor of a role, within the window."""
        return actors_of(self.window, role)

    def actors_before(self, role: Role, time: float) -> dict[str, list[ActorSample]]:
        """The same, of the samples before a time."""
        return actors_of([one for one in self.samples if one.time < time], role)

    def actors_after(self, role: Role, time: float) -> dict[str, list[ActorSample]]:
        """The same, of the samples from a time on, within the window."""
        return actors_of([one for one in self.window if one.time >= time], role)

    def recent_events(self, *kinds: EventKind) -> list[Happening]:
        return [one for one in self.events if one.kind in kinds and one.time >= self.now - WINDOW_S]

    # -- the learner

    @cached_property
    def warm_steps(self) -> Sequence[Step]:
        """Steps of the window after the warm-up of the learner's process."""
        if not self.steps:
            return ()
        incarnation = self.steps[-1].incarnation
        own = [one for one in self.steps if one.incarnation == incarnation][NUM_WARM_UP:]
        return [one for one in own if one.time >= self.now - WINDOW_S]

    @cached_property
    def wait_share(self) -> float | None:
        """The share of the window in which the learner waited for batches, the unfinished wait included; None: unknown.

        An unfinished step cannot be told from a wait, so the time since the last step counts only past twice a step.
        """
        steps = self.warm_steps
        if not self.has_rates or not steps:
            return None
        first = steps[0]
        began = first.time - (first.step_s or 0.0) - (first.wait_batch_s or 0.0)
        waited = sum(one.wait_batch_s or 0.0 for one in steps)
        since_s = self.now - steps[-1].time
        if since_s > 2 * max(self.mean(lambda one: one.step_s) or 0.0, 5.0):
            waited += since_s
        return min(1.0, waited / max(self.now - began, 1e-9)) if self.now - began >= LEAST_S / 2 else None

    @property
    def is_starved(self) -> bool:
        return self.wait_share is not None and self.wait_share >= STARVED_SHARE

    @property
    def starved_words(self) -> str:
        """The beginning of a sentence that says why the learner waits; empty if it does not wait."""
        if not self.is_starved or self.wait_share is None:
            return ""
        return f"The learner waited {share(self.wait_share)} of {self.window_words}: "

    def mean(self, figure: Callable[[Step], float | None]) -> float | None:
        """The mean of a figure over the last steps."""
        values = [value for one in self.last_steps if (value := figure(one)) is not None]
        return sum(values) / len(values) if values else None

    @cached_property
    def period_s(self) -> float | None:
        """Mean seconds from one step to the next, over the last steps."""
        gaps = [now.time - before.time for before, now in pairwise(self.last_steps)]
        return sum(gaps) / len(gaps) if gaps else None

    @property
    def last_steps(self) -> Sequence[Step]:
        """The newest warm steps: what the present looks like, where the window may hold a better past, too."""
        return self.warm_steps[-NUM_LAST_STEPS:]

    # -- the rollouts

    @cached_property
    def recent(self) -> Sequence[Sample]:
        """The samples of the last minutes."""
        return [one for one in self.window if one.time >= self.now - RECENT_S]

    def recent_actors(self, role: Role) -> dict[str, list[ActorSample]]:
        """The samples of each present actor of a role, of the last minutes."""
        return actors_of(self.recent, role)

    @cached_property
    def held_back_s(self) -> float:
        """How long the oldest sampled group of a rollout waits to be judged and committed, in the mean of the last
        minutes.
        """
        waits = [
            one.waited_s if one.wait == WaitCause.COMMIT else 0.0
            for actor in self.recent_actors(Role.ROLLOUT).values()
            for one in actor
        ]
        return sum(waits) / len(waits) if waits else 0.0

    def share_waiting(self, role: Role, wait: WaitCause) -> float:
        """The share of the last minutes in which actors of a role had a wait of this cause, in the mean."""
        shares = [share_waiting(actor, wait) for actor in self.recent_actors(role).values()]
        return sum(shares) / len(shares) if shares else 0.0

    @cached_property
    def slots_used(self) -> float | None:
        """The share of the engines' slots that were taken, in the last minutes; None: unknown."""
        running = capacity = 0.0
        for actor in self.recent_actors(Role.ROLLOUT).values():
            running += figure_mean(actor, "running") or 0.0
            capacity += figure_mean(actor, "capacity") or 0.0
        return running / capacity if capacity else None

    @cached_property
    def engine_busy_share(self) -> float | None:
        """The share of the last minutes in which engines sampled at all, over all rollouts."""
        grown = [figure_growth(actor, "busy_s") for actor in self.recent_actors(Role.ROLLOUT).values()]
        known = [one for one in grown if one is not None]
        return min(1.0, sum(known) / len(known) / max(span_s(self.recent), 1e-9)) if known and self.has_rates else None

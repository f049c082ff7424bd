"""Why a run is as it is, in sentences: the table of rules.

    History ──▶ View ──▶ each rule of RULES ──▶ findings, the gravest first

Owns: the table, the order, and what is left unsaid. A pure function: the same history gives the same sentences.
Invariants: faults come before symptoms, symptoms before tips, and tips only alone; a rule whose figures are missing
says nothing, and so does one that fails; a cause is said once for each actor or source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec

from ring_async.core.explain import faults, learner, learning, outliers, starvation, tuning, weights
from ring_async.core.explain.finding import Cause, Finding, Gravity
from ring_async.core.explain.history import History
from ring_async.core.explain.view import View
from ring_async.core.roster import Role

log = logging.getLogger(__name__)

Rule = Callable[[View], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    faults.run_failed,
    faults.full_disk,
    faults.paused,
    faults.dead_actor,
    weights.stale_weights,
    faults.failing_verifier,
    starvation.starved_learner,
    weights.slow_channel,
    learner.slow_checkpoint,
    learner.slow_step,
    outliers.slow_reward,
    outliers.late_weights,
    learning.starving_source,
    learning.reward_fell,
    learning.truncated,
    learning.no_signal,
    learning.nonfinite,
    learning.low_sample_size,
    learning.masked,
    learning.clipped,
    learning.entropy_fell,
    weights.mismatch,
    weights.evictions,
    outliers.imbalance,
    tuning.overloaded_reward,
    faults.evaluator_stuck,
    faults.clock_jumped,
    tuning.learner_bound,
)
"""In the order in which findings of one gravity are said."""

_FOLLOWS: dict[Cause, frozenset[Cause]] = {
    Cause.FULL_DISK: frozenset({Cause.SLOW_COMMITS, Cause.SLOW_VERIFIER, Cause.DEAD_ACTOR, Cause.SMALL_ADMISSION}),
    Cause.DEAD_ACTOR: frozenset(
        {
            Cause.SMALL_ADMISSION,
            Cause.GENERATION_BOUND,
            Cause.EVICTIONS,
            Cause.STARVING_SOURCE,
            Cause.TRUNCATED,
            Cause.LONG_RESPONSES,
        }
    ),
    Cause.STALE_WEIGHTS: frozenset(
        {Cause.SMALL_ADMISSION, Cause.GENERATION_BOUND, Cause.EVICTIONS, Cause.IMBALANCE, Cause.LATE_WEIGHTS}
    ),
    Cause.FAILING_VERIFIER: frozenset({Cause.STARVING_SOURCE}),
    Cause.TRUNCATED: frozenset({Cause.LONG_RESPONSES}),
    Cause.NO_SIGNAL: frozenset({Cause.SMALL_ADMISSION, Cause.GENERATION_BOUND}),
    Cause.IMBALANCE: frozenset({Cause.EVICTIONS}),
    Cause.SLOW_VERIFIER: frozenset({Cause.OVERLOADED_REWARD, Cause.SLOW_REWARD}),
    Cause.SLOW_REWARD: frozenset({Cause.OVERLOADED_REWARD, Cause.EVICTIONS}),
    Cause.LATE_WEIGHTS: frozenset({Cause.EVICTIONS}),
    Cause.ENTROPY_FELL: frozenset({Cause.NO_SIGNAL}),
    Cause.SLOW_CHANNEL: frozenset({Cause.SLOW_CHECKPOINT, Cause.LEARNER_BOUND}),
}
"""What follows from a cause is not said beside it."""
_FOLLOWS_LOST_STAGE = frozenset({Cause.SLOW_VERIFIER, Cause.SLOW_COMMITS})
"""What follows too if the dead actor is no rollout: without a rollout, those who judge and keep have less to do."""


def explain(history: History) -> tuple[Finding, ...]:
    """What is to be known about a run; empty if nothing is wrong, or nothing is known."""
    if not history.samples:
        return ()
    view = View(history)
    found = [finding for rule in RULES for finding in _said_by(rule, view)]
    causes = {finding.cause for finding in found}
    followed = frozenset[Cause]().union(*(_FOLLOWS.get(cause, frozenset()) for cause in causes))
    if any(one.cause == Cause.DEAD_ACTOR and not one.who.startswith(Role.ROLLOUT) for one in found):
        followed |= _FOLLOWS_LOST_STAGE
    found = [finding for finding in found if finding.cause not in followed]
    if any(finding.gravity < Gravity.TIP for finding in found):
        found = [finding for finding in found if finding.gravity < Gravity.TIP]
    found.sort(key=lambda finding: finding.gravity)
    return (*found[:1], *(_shortened(finding, view.starved_words) for finding in found[1:]))


def _said_by(rule: Rule, view: View) -> list[Finding]:
    """The findings of one rule; none if it fails, since the run goes on and the other rules may know something."""
    try:
        return list(rule(view))
    except Exception:
        log.exception("the rule %s failed", rule.__name__)
        return []


def _shortened(finding: Finding, said: str) -> Finding:
    """A finding without the beginning that was said before it."""
    what = finding.what.removeprefix(said) if said else finding.what
    return msgspec.structs.replace(finding, what=what[:1].upper() + what[1:] if what != finding.what else what)

"""How totals grew between samples, and how actors spent the time: the arithmetic under the rules.

Owns: growth of totals over restarts, rates and means of an actor, shares of time. Knows no rule and no threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from ring_async.core.explain.history import ActorSample, Sample
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role


def growth(totals: Iterable[float]) -> float:
    """How much a total grew. A total that fell began anew with another process: then all of it is growth."""
    return sum(now - before if now >= before else now for before, now in pairwise(totals))


def actors_of(samples: Sequence[Sample], role: Role | None) -> dict[str, list[ActorSample]]:
    """The samples of each actor of a role, by id; the actors of the newest sample alone."""
    present = {actor.actor_id for actor in samples[-1].actors if actor.role == role} if samples else set()
    found: dict[str, list[ActorSample]] = {actor_id: [] for actor_id in sorted(present)}
    for sample in samples:
        for actor in sample.actors:
            if actor.actor_id in found:
                found[actor.actor_id].append(actor)
    return found


def figure_growth(actor: Sequence[ActorSample], name: str) -> float | None:
    """How much a total of one actor grew; None if it was reported less than twice."""
    totals = [sample.figures[name] for sample in actor if name in sample.figures]
    return growth(totals) if len(totals) > 1 else None


def figure_mean(actor: Sequence[ActorSample], name: str) -> float | None:
    """The mean of a figure over an actor's samples; None if it was never reported."""
    values = [sample.figures[name] for sample in actor if name in sample.figures]
    return sum(values) / len(values) if values else None


def seconds_a_unit(actor: Sequence[ActorSample], seconds: str, unit: str) -> float | None:
    """Seconds for one unit of work, from two totals of an actor; None if it did none."""
    spent, done = figure_growth(actor, seconds), figure_growth(actor, unit)
    return spent / done if spent is not None and done else None


def share_waiting(actor: Sequence[ActorSample], wait: WaitCause) -> float:
    """The share of an actor's samples in which its longest wait had this cause."""
    hits = sum(sample.wait == wait for sample in actor)
    return hits / len(actor) if actor else 0.0


def span_s(samples: Sequence[Sample]) -> float:
    """Seconds from the first sample to the last."""
    return samples[-1].uptime_s - samples[0].uptime_s if len(samples) > 1 else 0.0


def ended_growth(samples: Sequence[Sample], cause: str) -> int:
    """How many trajectories ended since the first sample for a cause that begins so, e.g. `dropped(no_signal`."""
    first, last = samples[0].causes, samples[-1].causes
    return sum(number - first.get(name, 0) for name, number in last.items() if name.startswith(cause))


def completed_growth(samples: Sequence[Sample]) -> int:
    """How many trajectories left the rollouts and rewards since the first sample, whatever became of them."""
    first, last = samples[0].ledger, samples[-1].ledger
    return sum(_completed(counts) * sign for counts, sign in ((last, 1), (first, -1)))


def _completed(ledger: dict[str, int]) -> int:
    return ledger.get("reserved", 0) - sum(ledger.get(state, 0) for state in ("generating", "generated", "scored"))

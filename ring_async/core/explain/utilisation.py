"""How each actor spends its time: the share in which it works, and the shares in which it waits, by cause.

Owns: the division of the window. Rollouts and the learner report the seconds in which they computed; for the others the
samples decide. A learner asks for the next batch while it trains, so its waiting is read from its steps.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from ring_async.core.explain.growth import figure_growth, span_s
from ring_async.core.explain.history import ActorSample, History
from ring_async.core.explain.view import View
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role

WORK = "work"
_MEASURED = {Role.ROLLOUT, Role.LEARNER}


class Utilisation(msgspec.Struct, frozen=True):
    """One actor's time. `parts`: share by cause, `work` first; they add up to 1."""

    actor_id: str
    role: Role | None
    parts: dict[str, float]


def utilisation(history: History) -> tuple[Utilisation, ...]:
    """The division of the last ten minutes, for each present actor that was heard; nothing before there are two
    samples.
    """
    view = View(history)
    if len(view.window) < 2:
        return ()
    by_role = {role: view.actors(role) for role in {actor.role for actor in view.newest.actors}}
    found = []
    for actor in view.newest.actors:
        heard = [one for one in by_role[actor.role][actor.actor_id] if one.silent_s is not None]
        if heard:
            found.append(Utilisation(actor.actor_id, actor.role, _parts(view, heard, actor.role)))
    return tuple(found)


def _parts(view: View, own: list[ActorSample], role: Role | None) -> dict[str, float]:
    busy_s = figure_growth(own, "busy_s") if role in _MEASURED else None
    waits = Counter(one.wait for one in own if one.wait)
    if role == Role.LEARNER and view.wait_share is not None:
        waits = Counter({WaitCause.BATCH: 1})
    if busy_s is None:
        work = sum(not one.wait for one in own) / len(own)
    else:
        work = min(1.0, busy_s / max(span_s(view.window) * len(own) / len(view.window), 1e-9))
    total = sum(waits.values())
    rest = (
        {cause: (1 - work) * number / total for cause, number in waits.most_common()} if total else {"other": 1 - work}
    )
    return {WORK: work} | {cause: part for cause, part in rest.items() if part > 0}

"""A chaos run: a configuration is run, struck again and again, watched until it has recovered, ended, and audited.

Owns: the course of it. Does not own which strikes (`plan`), what counts as recovered (`recovery`), the run (`target`),
nor how results are shown (`table`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from ring_async.chaos.plan import Fault, Injection, Phase, injections
from ring_async.chaos.recovery import Seen, bystanders_lost, has_successor, is_recovered
from ring_async.chaos.table import ChaosReport, Strike
from ring_async.chaos.target import Target
from ring_async.core.roster import Role, Roster, id_of
from ring_async.errors import RunError
from ring_async.storage.audit import audit

RECOVERY_S = 120.0
"""Longest time for one recovery; one that takes longer did not happen."""
PHASE_S = 0.2
"""A strike in a phase comes up to so long after the phase began."""

Say = Callable[[Strike], None]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a chaos run is to do.

    Attributes:
        roster: of the run.
        verifiers: `use` of each verifier, for swaps to itself.
        seed: of the strikes.
        minutes: after which no further strike begins.
        num_strikes: after which none begins; None: time alone decides.
    """

    roster: Roster
    verifiers: Mapping[str, str]
    seed: int
    minutes: float
    num_strikes: int | None = None


def strike_until_over(target: Target, orders: Orders, say: Say) -> ChaosReport:
    """Bring the target up, strike it until the time or the number is reached, end it, and audit it.

    Args:
        target: the run, not started yet.
        orders: how often, from which seed.
        say: is told of every strike once it is over.

    Raises:
        RunError: nothing can be audited.
    """
    report = ChaosReport(orders.seed)
    rng = random.Random(orders.seed + 1)
    roles = [role for role, number in orders.roster.counts.items() if number]
    end_s = time.monotonic() + 60.0 * orders.minutes
    try:
        target.start()
        try:
            for injection in injections(orders.seed, roles):
                if time.monotonic() > end_s or injection.number > (orders.num_strikes or injection.number):
                    break
                time.sleep(injection.pause_s)
                strike = _strike(target, orders, injection, rng)
                report.strikes.append(strike)
                say(strike)
            last = target.wait(lambda _: True, "answer of the controller", RECOVERY_S)
            report.num_versions = last.status.policy_version or 0
            report.ending = target.end()
        except RunError as error:
            report.ending = str(error)
    finally:
        report.orphans = target.close()
    found = audit(target.run_dir.path)
    report.violations = found.violations
    report.failed = {cause: number for cause, number in found.causes.items() if cause.startswith("failed")}
    report.num_trajectories = found.counts.get("reserved", 0)
    return report


def _strike(target: Target, orders: Orders, injection: Injection, rng: random.Random) -> Strike:
    """One strike and its recovery."""
    struck = {role: id_of(role, rng.randrange(orders.roster.counts[role])) for role in injection.victims}
    before = target.wait(lambda seen: _are_all_there(target, struck, seen), "fleet to strike", RECOVERY_S)
    if injection.phase is Phase.SWAP:
        name, use = rng.choice(sorted(orders.verifiers.items()))
        target.post_beside(f"/v1/verifiers/{name}/swap", {"use": use, "options": {}, "author": "chaos"})
    elif injection.phase is Phase.CHECKPOINT:
        target.post_beside("/v1/checkpoint", {})
    if injection.phase in (Phase.SWAP, Phase.CHECKPOINT):
        time.sleep(rng.uniform(0.0, PHASE_S))
    began_s = time.monotonic()
    _hit(target, injection.fault, struck, before)
    since = before
    try:
        if injection.phase is Phase.RESTART:
            since = target.wait(lambda seen: _all(has_successor, struck, before, seen), "successor", RECOVERY_S)
            began_s = time.monotonic()
            _hit(target, injection.fault, struck, since)
        elif injection.fault is Fault.FREEZE:
            target.wait(lambda seen: _all(has_successor, struck, before, seen), "successor", RECOVERY_S)
            target.thaw()
        now = target.wait(lambda seen: _all(is_recovered, struck, since, seen), "recovery", RECOVERY_S)
    except RunError:
        target.thaw()
        if target.look() is None:
            raise
        return Strike(*injection.kind, None)
    recovered_s = time.monotonic() - began_s
    return Strike(*injection.kind, recovered_s, tuple(bystanders_lost(frozenset(struck.values()), before, now)))


def _hit(target: Target, fault: Fault, struck: Mapping[Role, str], seen: Seen) -> None:
    for role, actor_id in struck.items():
        process = target.process_of(role, actor_id, seen)
        if process is None:
            continue
        if fault is Fault.FREEZE:
            target.freeze(process)
            continue
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _all(holds: Callable[[Role, str, Seen, Seen], bool], struck: Mapping[Role, str], before: Seen, now: Seen) -> bool:
    return all(holds(role, actor_id, before, now) for role, actor_id in struck.items())


def _are_all_there(target: Target, struck: Mapping[Role, str], seen: Seen) -> bool:
    return all(target.process_of(role, actor_id, seen) is not None for role, actor_id in struck.items())

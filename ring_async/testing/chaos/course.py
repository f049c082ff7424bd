"""One run of a fleet in one process, struck by the faults of its seed, watched until it has recovered, and audited.

Owns: the configuration that a seed draws, the course of a strike, and when the run has recovered from it:

    an actor was killed    its successor made its first useful product, as `chaos.recovery` says
    anything else          after the fault has ended, work was granted and a version trained

Does not own the faults, nor the table. Everything is drawn from the seed, so that a seed is a reproduction.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ring_async.chaos.plan import Phase
from ring_async.chaos.recovery import Seen, bystanders_lost, has_successor, is_recovered
from ring_async.chaos.table import Strike, num_doubled
from ring_async.core.replay.plan_log import Violation
from ring_async.core.roster import CONTROLLER_ID, Role, id_of
from ring_async.errors import RefusedError, RunError
from ring_async.storage.audit import audit
from ring_async.testing.builders import make_config
from ring_async.testing.chaos.faults import (
    CLOCK_STEPS,
    WallClock,
    damage_newest_checkpoint,
    lasting,
    partition,
    stall,
    tear_journal,
)
from ring_async.testing.chaos.moody import MOODY
from ring_async.testing.chaos.plan import DEATHS, VERIFIER, Kind, VirtualFault, kinds_for
from ring_async.testing.faulty_channel import Faults, FaultyHub
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.virtual_clock import run_virtual

RECOVERY_S = 120.0
"""Longest virtual time for one recovery; one that takes longer did not happen."""
POLL_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0
LONGEST_FAULT_S = 1.5 * HEARTBEAT_TIMEOUT_S
"""Some cuts end before anybody counts as dead, and some after."""
NUM = {Role.CONTROLLER: 1, Role.REPLAY: 2, Role.REWARD: 2, Role.ROLLOUT: 2, Role.LEARNER: 1}
VERIFIERS = ("exact", "second")


@dataclass(slots=True)
class CourseReport:
    """What one seed led to. `ending`: what went wrong with the run itself; empty: nothing."""

    seed: int
    strikes: list[Strike] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    ending: str = ""
    num_versions: int = 0
    num_trajectories: int = 0

    @property
    def is_good(self) -> bool:
        return not self.ending and not self.violations and all(one.recovered_s is not None for one in self.strikes)


def run_course(seed: int, num_strikes: int, runs: Path) -> CourseReport:
    """Run one seed to its end, in virtual time.

    A run is audited at its end. If something is missing or doubled then, it is run again with fewer strikes, to find
    the one after which it is: equal seeds give equal runs.

    Args:
        seed: from 0.
        num_strikes: faults of one run.
        runs: an empty folder for the runs' files.
    """
    report = _Course(seed, num_strikes, num_strikes, runs / "whole").run()
    if not report.violations:
        return report
    for last in range(1, num_strikes + 1):
        shorter = _Course(seed, num_strikes, last, runs / f"first-{last}").run()
        if shorter.violations and last <= len(report.strikes):
            doubled = num_doubled(shorter.violations)
            lost = len(shorter.violations) - doubled
            report.strikes[last - 1] = replace(report.strikes[last - 1], lost=lost, doubled=doubled)
            break
    return report


class _Course:
    """Tells one story from a seed; see `run_course`."""

    def __init__(self, seed: int, num_strikes: int, last: int, runs: Path) -> None:
        self.report = CourseReport(seed)
        self._rng = rng = random.Random(seed)
        self._kinds = list(kinds_for(seed, num_strikes))[:last]
        config = make_config(
            mode=rng.choice(("async", "async", "sync")), stop__policy_versions=10**6, stop__wall_s=None,
            rollout__num=NUM[Role.ROLLOUT], reward__num=NUM[Role.REWARD], replay__num=NUM[Role.REPLAY],
            rollout__group_size=4, rollout__max_running_requests=8, rollout__handover_s=rng.choice((0.0, 1.0)),
            budget__token_budget=128, checkpoint__every_versions=rng.choice((1, 3, 10)), checkpoint__keep=3,
            sources={name: {"task": "chain_sum", "verifier": name} for name in VERIFIERS},
            mixture=dict.fromkeys(VERIFIERS, 1.0),
            verifiers={name: {"use": MOODY, "options": {"name": name}} for name in VERIFIERS},
            reward__timeout_s=2.0, monitoring__heartbeat_timeout_s=HEARTBEAT_TIMEOUT_S,
            replay__map_size_bytes=16 << 20, placement__max_restarts=10**6,
        )  # fmt: skip
        noise = rng.choice((Faults(), Faults(drop=0.01, duplicate=0.02, reorder=0.02, delay_s=(0.0, 0.05))))
        self._hub = FaultyHub(noise, seed=seed, limits=config.transport)
        token_s, train_s = rng.choice((0.1, 0.4)), rng.choice((0.5, 2.0))
        self._fleet = OneProcessFleet(config, runs, token_s=token_s, train_s=train_s, hub=self._hub)
        self._clock = WallClock()

    def run(self) -> CourseReport:
        report, run_dir = self.report, self._fleet.run_dir
        limit_s = 2.0 * RECOVERY_S * (len(self._kinds) + 2)
        try:
            report.ending = run_virtual(self._both(), limit_s=limit_s)
        except Exception as error:  # whatever ended the run is a finding of this seed
            report.ending = f"{type(error).__name__}: {error}"
        finally:
            self._clock.close()
        found = audit(run_dir.path)
        report.violations, report.num_trajectories = found.violations, found.counts.get("reserved", 0)
        steps = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
        versions = [(step["incarnation"], step["policy_version"]) for step in steps]
        report.num_versions = max((number for _, number in versions), default=0)
        if len(versions) != len(set(versions)):
            report.ending = report.ending or "a version was reported twice in one lineage"
        return report

    async def _both(self) -> str:
        striking = asyncio.create_task(self._strike_all(), name="chaos")
        running = asyncio.create_task(self._fleet.run(), name="fleet")
        await asyncio.wait((striking, running), return_when=asyncio.FIRST_COMPLETED)
        if not striking.done():
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
            return f"the run ended by itself: {await running}"
        striking.result()
        return await running

    async def _strike_all(self) -> None:
        await self._until(lambda seen: bool(seen.status.policy_version))
        for kind in self._kinds:
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            struck = {role: id_of(role, self._rng.randrange(NUM[role])) for role in kind.victims}
            before = await self._until(functools.partial(self._are_all_there, struck))
            if before is None:
                raise RunError(f"{', '.join(struck.values())} did not come back; no strike was possible")
            strike = await self._strike(kind, struck, before)
            self.report.strikes.append(strike)
        await self._until(lambda _: True)
        self._fleet.controller.shut_down("the strikes are over", deadline_s=30.0)

    async def _strike(self, kind: Kind, struck: Mapping[Role, str], before: Seen) -> Strike:
        """One fault, and the recovery from it."""
        self._enter(kind.phase)
        await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        if kind.fault in DEATHS:
            recovered_s, now = await self._kill(kind, struck, before)
        else:
            recovered_s, now = await self._disturb(kind, struck, before)
        lost = bystanders_lost(frozenset(struck.values()), before, now or before)
        return Strike(kind.fault, kind.struck, kind.phase, recovered_s, tuple(lost))

    async def _kill(self, kind: Kind, struck: Mapping[Role, str], before: Seen) -> tuple[float | None, Seen | None]:
        now_s, began_s, since = asyncio.get_running_loop().time, asyncio.get_running_loop().time(), before
        self._kill_now(kind.fault, struck)
        if kind.phase is Phase.RESTART:
            again = await self._until(lambda seen: _all(has_successor, struck, before, seen))
            if again is None:
                return None, None
            since, began_s = again, now_s()
            self._kill_now(kind.fault, struck)
        now = await self._until(lambda seen: _all(is_recovered, struck, since, seen))
        return (now_s() - began_s if now else None), now

    def _kill_now(self, fault: VirtualFault, struck: Mapping[Role, str]) -> None:
        for actor_id in struck.values():
            if self._fleet.is_up(actor_id):
                self._fleet.kill(actor_id)
        if fault is VirtualFault.TEAR:
            # its last breath: what a process had written that ends in the middle of a write
            tear_journal(self._fleet.run_dir, self._rng)
        elif fault is VirtualFault.DAMAGE:
            damage_newest_checkpoint(self._fleet.run_dir)

    async def _disturb(self, kind: Kind, struck: Mapping[Role, str], before: Seen) -> tuple[float | None, Seen | None]:
        lasts_s = self._rng.uniform(0.5, LONGEST_FAULT_S)
        verifier = self._rng.choice(VERIFIERS)
        if kind.fault is VirtualFault.STALL:
            stall(10.0 * lasts_s)
        elif kind.fault in CLOCK_STEPS:
            self._clock.step(CLOCK_STEPS[kind.fault])
        elif kind.fault is VirtualFault.CUT_OFF:
            everybody = [*self._fleet.actors, "launcher"]
            with partition(self._hub, [(one, other) for one in struck.values() for other in everybody if one != other]):
                await asyncio.sleep(lasts_s)
        elif kind.fault is VirtualFault.PART:
            one, other = struck.values()
            with partition(self._hub, [(one, other)]):
                await asyncio.sleep(lasts_s)
        else:
            with lasting(kind.fault, self._hub, verifier):
                await asyncio.sleep(lasts_s)
        ended_s = asyncio.get_running_loop().time()
        if kind.fault in VERIFIER:
            await self._replace(verifier)
        since = self._look() or before
        now = await self._until(lambda seen: _goes_on(since, seen))
        return (asyncio.get_running_loop().time() - ended_s if now else None), now

    async def _replace(self, verifier: str) -> None:
        """Do what a person does about a verifier that was taken out of service: put a whole one in its place."""
        while True:
            await self._until(lambda _: True)
            with contextlib.suppress(RefusedError):
                self._fleet.controller.changes.swap_verifier(verifier, MOODY, {"name": verifier}, author="chaos")
                return
            await asyncio.sleep(POLL_S)

    def _enter(self, phase: Phase) -> None:
        """Begin what the run is to be in the midst of."""
        if phase is Phase.SWAP:
            name = self._rng.choice(VERIFIERS)
            with contextlib.suppress(RefusedError):  # another change is under way: that will do
                self._fleet.controller.changes.swap_verifier(name, MOODY, {"name": name}, author="chaos")
        elif phase is Phase.CHECKPOINT:
            self._saving = asyncio.create_task(self._save(), name="save")

    async def _save(self) -> None:
        with contextlib.suppress(RunError):
            await self._fleet.controller.checkpoint()

    def _look(self) -> Seen | None:
        if not self._fleet.is_up(CONTROLLER_ID):
            return None
        return Seen(self._fleet.controller.status(), self._fleet.num_controllers)

    async def _until(self, is_so: Callable[[Seen], bool]) -> Seen | None:
        """Look again and again until something is so; None if it did not come about."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + RECOVERY_S
        while loop.time() < end_s:
            if (seen := self._look()) is not None and is_so(seen):
                return seen
            await asyncio.sleep(POLL_S)
        return None

    def _are_all_there(self, struck: Mapping[Role, str], seen: Seen) -> bool:
        for role, actor_id in struck.items():
            if not self._fleet.is_up(actor_id):
                return False
            actor = seen.actor(actor_id)
            if role is not Role.CONTROLLER and (actor is None or actor.pid is None):
                return False
        return True


def _goes_on(since: Seen, now: Seen) -> bool:
    """Work was granted and a version was trained."""
    return now.status.ledger.reserved > since.status.ledger.reserved and (now.status.policy_version or 0) > (
        since.status.policy_version or 0
    )


def _all(holds: Callable[[Role, str, Seen, Seen], bool], struck: Mapping[Role, str], before: Seen, now: Seen) -> bool:
    return all(holds(role, actor_id, before, now) for role, actor_id in struck.items())

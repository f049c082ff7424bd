"""Changes of verifiers while the run goes on: the requests of people, and the progress of each swap.

    people ──swap, roll_back, decide──▶ VerifierSwaps ──events──▶ Swap (core) ──effects──▶ SwapEffects
                                              ▲                                                │
                                              └──────── what each effect led to ◀──────────────┘

Owns: the swaps of this run and the verifier epochs in force. Does not own when a swap moves on (`core.verifier_swap`),
how an effect is carried out (`swap_effects`), verifiers (reward actors have them), or which groups a change bars
(replay).
Invariant: one change at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.swap_effects import SwapEffects
from ring_async.clock import monotonic_s
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import CONTROLLER_ID, Role
from ring_async.core.verifier_epochs import VerifierEpochs
from ring_async.core.verifier_swap import (
    Approved,
    CalledOff,
    Discard,
    Effect,
    Event,
    RecordAbort,
    RecordCommit,
    Swap,
    SwapState,
)
from ring_async.errors import RefusedError
from ring_async.types import EpochRules, VerifierInForce
from ring_async.verifiers.kept_files import keep_file, keep_options

NUM_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class _Followed:
    """A swap, and an event that is set once it has ended everywhere."""

    swap: Swap
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class VerifierSwaps:
    """Runs the verifier swaps of one run, one at a time.

        swap = swaps.swap("math", "my.module:Strict", {}, author="ada", shadow=100, rescore=False, hold=True)
        await swaps.until_ended(swap.swap_id, wait_s=60.0)     # swap.state is held: a person must decide
        swaps.decide(swap.swap_id, commit=True)

    Args:
        context: of the run; its folder keeps copies of verifier files that people named by path, so that the run can
            build them again.
        fleet: its reward actors prepare verifiers; its reward actors and replay hear of commits.
        on_commit: called with the name of a verifier that changed.
        on_failing: called with the name of a failing verifier, and the reason, when it cannot be rolled back.
    """

    def __init__(
        self,
        context: RunContext,
        fleet: FleetShell,
        on_commit: Callable[[str], None],
        on_failing: Callable[[str, str], None],
    ) -> None:
        config, noted = context.config, context.notes.resumed("verifiers")
        self._folder = context.run_dir.verifiers
        self._spawn = context.spawn
        self._members = fleet.members
        self._followed: dict[str, _Followed] = {}
        self._failing: dict[str, tuple[int, str]] = {}
        """Verifiers to be rolled back once no other change is under way: the epoch that fails, and why."""
        self._on_failing = on_failing
        self._epochs = VerifierEpochs(
            VerifierInForce(name, section.use, section.options, epoch=0) for name, section in config.verifiers.items()
        )
        for before, after in self._epochs.restore(noted) if noted is not None else ():
            context.run_log.event(
                EventKind.VERIFIER_RECONFIGURED, author="configuration", verifier=after.name,
                before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
        self._effects = SwapEffects(context, fleet, self._epochs, on_commit)
        # noted so that a resumed run can compare its configuration with it
        context.notes.hold("verifiers", self._epochs.snapshot())

    # -- what others ask

    @property
    def changed(self) -> tuple[VerifierInForce, ...]:
        """The verifiers in force that differ from the configuration's."""
        return self._epochs.changed

    @property
    def rules(self) -> dict[str, EpochRules]:
        """Which epochs may still be trained on, by verifier."""
        return self._epochs.rules

    def in_force(self, name: str) -> VerifierInForce:
        """
        Raises:
            RefusedError: there is no verifier of this name.
        """
        return self._epochs.in_force(name)

    def can_roll_back(self, name: str) -> bool:
        return self._epochs.former(name) is not None

    def get(self, swap_id: str) -> Swap:
        """
        Raises:
            RefusedError: there is no such swap.
        """
        return self._follow(swap_id).swap

    async def until_ended(self, swap_id: str, wait_s: float) -> Swap:
        """Wait until a swap has ended and every actor has heard of it, for `wait_s` at most; returns the swap.

        Raises:
            RefusedError: there is no such swap.
        """
        followed = self._follow(swap_id)
        try:
            await asyncio.wait_for(followed.ended.wait(), wait_s)
        except TimeoutError:
            pass
        return followed.swap

    def _follow(self, swap_id: str) -> _Followed:
        if swap_id not in self._followed:
            raise RefusedError(f"no swap {swap_id!r}; known are {', '.join(self._followed) or 'none'}")
        return self._followed[swap_id]

    # -- changes

    def swap(
        self, name: str, use: str, options: dict[str, Any], *, author: str, shadow: int, rescore: bool, hold: bool
    ) -> Swap:
        """Begin to change a verifier.

        Raises:
            RefusedError: there is no such verifier, or another change is under way.
            ConfigError: the file that it is to be loaded from cannot be read.
        """
        before = self._epochs.in_force(name)
        self._refuse_if_busy()
        use, options = keep_file(use, self._folder), keep_options(options, self._folder)
        verifier = VerifierInForce(name, use, options, self._epochs.next_epoch)
        return self._begin(Swap(_swap_id(verifier), verifier, before, author, shadow, rescore, hold))

    def roll_back(self, name: str, *, author: str, cause: str = "") -> Swap:
        """Begin to go back to the former verifier.

        Raises:
            RefusedError: there is no former verifier, or another change is under way.
        """
        before, former = self._epochs.in_force(name), self._epochs.former(name)
        if former is None:
            raise RefusedError(f"verifier {name!r} was never swapped: there is nothing to go back to")
        self._refuse_if_busy()
        verifier = msgspec.structs.replace(former, epoch=self._epochs.next_epoch)
        return self._begin(Swap(_swap_id(verifier), verifier, before, author, is_rollback=True, cause=cause))

    def roll_back_failing(self, name: str, cause: str) -> bool:
        """Go back to the former verifier because the one in force fails: at once, or once the change under way ends.

        A change that prepares is waited for: it may be the remedy. One that is watched, or held for a person, is
        called off. The caller has asked `can_roll_back`. Returns whether the rollback has begun.
        """
        self._failing[name] = (self._epochs.in_force(name).epoch, cause)
        self._roll_back_next()
        return name not in self._failing

    def _roll_back_next(self) -> None:
        """Begin with the rollback that is due first, if no other change stands in its way."""
        while (name := next(iter(self._failing), None)) is not None:
            epoch, cause = self._failing[name]
            if self._epochs.in_force(name).epoch != epoch or not self.can_roll_back(name):
                del self._failing[name]  # another verifier is in force meanwhile
                continue
            for followed in self._followed.values():
                if not (swap := followed.swap).has_ended:
                    if not swap.is_rollback and swap.state in (SwapState.SHADOWING, SwapState.HELD):
                        self._happened(followed, CalledOff(f"verifier {name} fails and is rolled back first"))
                    return
            del self._failing[name]
            self.roll_back(name, author=CONTROLLER_ID, cause=cause)

    def decide(self, swap_id: str, *, commit: bool) -> Swap:
        """Commit a swap that is held, or call off a swap, as a person decides.

        Raises:
            RefusedError: the swap has ended, or is not held yet.
        """
        followed = self._follow(swap_id)
        self._happened(followed, Approved() if commit else CalledOff())
        return followed.swap

    def _refuse_if_busy(self) -> None:
        for followed in self._followed.values():
            if not (swap := followed.swap).has_ended:
                raise RefusedError(f"swap {swap.swap_id} is {swap.state}; one change at a time")

    def _begin(self, swap: Swap) -> Swap:
        self._followed[swap.swap_id] = followed = _Followed(swap)
        for old in list(self._followed)[:-NUM_REMEMBERED]:
            del self._followed[old]
        rewards = [member.actor_id for member in self._members.of(Role.REWARD)]
        self._perform_all(followed, swap.begin(rewards, monotonic_s()))
        return swap

    # -- effects

    def _happened(self, followed: _Followed, event: Event) -> None:
        self._perform_all(followed, followed.swap.handle(event, monotonic_s()))
        if followed.swap.has_ended or self._failing:
            self._roll_back_next()

    def _perform_all(self, followed: _Followed, effects: list[Effect]) -> None:
        for effect in effects:
            self._spawn(self._perform(followed, effect))

    async def _perform(self, followed: _Followed, effect: Effect) -> None:
        event = await self._effects.perform(followed.swap, effect)
        if event is not None:
            self._happened(followed, event)
        if isinstance(effect, RecordAbort) and followed.swap.cause:
            self._on_failing(followed.swap.verifier.name, f"{followed.swap.cause}; not rolled back: {effect.reason}")
        if isinstance(effect, RecordCommit | Discard):  # a swap's last effect was carried out
            followed.ended.set()


def _swap_id(verifier: VerifierInForce) -> str:
    return f"{verifier.name}-{verifier.epoch}"


def plain_swap(swap: Swap) -> dict[str, Any]:
    """Describe a swap as plain data for the API: what changes, its state, and how the two verifiers compare."""
    report = swap.report
    num = max(report.num_trajectories, 1)
    return {
        "swap_id": swap.swap_id,
        "state": swap.state,
        "reason": swap.reason,
        "verifier": msgspec.to_builtins(swap.verifier),
        "author": swap.author,
        "is_rollback": swap.is_rollback,
        "rescore": swap.rescore,
        "golden_cases": swap.num_cases,
        "prepare_s": swap.prepare_s,
        "commit_s": swap.commit_s,
        "shadow": {
            "wanted": swap.shadow,
            "trajectories": report.num_trajectories,
            "agreement": report.num_agreed / num,
            "reward_before": report.reward_before / num,
            "reward_after": report.reward_after / num,
            "seconds_before": report.seconds_before / num,
            "seconds_after": report.seconds_after / num,
            "failures": report.failures,
        },
    }

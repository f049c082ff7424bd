"""Changing a verifier while the run goes on: performs what `core.verifier_swap` asks for.

    people ──swap, roll_back, decide──▶ VerifierSwaps ──events──▶ Swap (core)
                                            ▲                       │ effects
                                            └── answers of actors ◀─┴─▶ reward actors, journal, replay

Owns: the swaps of this run, the verifier epochs in force, and bringing a commit to everybody. Does not own when a swap
moves on (`core.verifier_swap`), verifiers (reward actors have them), or which groups a change bars (replay).
Invariants: a commit is durable before anybody hears of it, so an actor that dies in the middle learns of it when it
registers again; one change at a time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.waits import ask_until_answered
from ring_async.clock import monotonic_s
from ring_async.core.verifier_epochs import VerifierEpochs
from ring_async.core.verifier_swap import (
    ActorLost,
    Approved,
    CalledOff,
    CommitDurable,
    CommitDurably,
    CommitFailed,
    CommitTold,
    CountShadow,
    Discard,
    Effect,
    Event,
    Prepare,
    Prepared,
    PrepareRefused,
    RecordAbort,
    RecordCommit,
    ShadowCounted,
    ShadowCounts,
    Swap,
    TellCommit,
)
from ring_async.errors import PeerGoneError, PeerTimeoutError, RefusedError, RingAsyncError, StorageError
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.changes import (
    ApplyEpochRules,
    CommitVerifier,
    DropPrepared,
    PrepareVerifier,
    ReportShadow,
    ShadowReported,
    VerifierPrepared,
)
from ring_async.types import EpochRules, VerifierInForce
from ring_async.verifiers.kept_files import keep_file, keep_options

log = logging.getLogger(__name__)

COMMIT_RETRY_S = 5.0
SHADOW_TIMEOUT_S = 5.0
NUM_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class _Followed:
    """A swap, and whether all who follow it may stop."""

    swap: Swap
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class VerifierSwaps:
    """All changes of verifiers of one run.

        swap = swaps.swap("math", "my.module:Strict", {}, author="ada", shadow=100, rescore=False, hold=True)
        await swaps.until_ended(swap.swap_id, wait_s=60.0)     # swap.state is held: a person must say
        swaps.decide(swap.swap_id, commit=True)

    Args:
        context: of the run; its folder keeps files of verifiers given by path, by content, so that the run can build
            them again.
        fleet: who prepares verifiers, and hears of commits.
        on_commit: told the name of a verifier that changed.
    """

    def __init__(self, context: RunContext, fleet: FleetShell, on_commit: Callable[[str], None]) -> None:
        config, noted = context.config, context.notes.resumed("verifiers")
        self._folder = context.run_dir.verifiers
        self._notes = context.notes
        self._event = context.run_log.event
        self._spawn = context.spawn
        self._links = fleet.links
        self._members = fleet.members
        self._on_commit = on_commit
        self._followed: dict[str, _Followed] = {}
        self._epochs = VerifierEpochs(
            VerifierInForce(name, section.use, section.options, epoch=0) for name, section in config.verifiers.items()
        )
        for before, after in self._epochs.restore(noted) if noted is not None else ():
            self._event(
                "verifier_reconfigured", author="configuration", verifier=after.name,
                before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
        self._note_epochs()  # what a resumed run compares its configuration with

    def _note_epochs(self) -> None:
        self._notes.put("verifiers", self._epochs.snapshot())

    # -- what others ask

    @property
    def changed(self) -> tuple[VerifierInForce, ...]:
        """Verifiers in force that are not those of the configuration."""
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
        """The swap once it has ended and every actor has heard of it, or as it is after `wait_s`.

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
            RefusedError: no such verifier, or another change is under way.
            ConfigError: the file that it is to be loaded from cannot be read.
        """
        before = self._epochs.in_force(name)
        self._refuse_if_busy()
        use, options = keep_file(use, self._folder), keep_options(options, self._folder)
        verifier = VerifierInForce(name, use, options, self._epochs.next_epoch)
        return self._begin(Swap(_swap_id(verifier), verifier, before, author, shadow, rescore, hold))

    def roll_back(self, name: str, *, author: str, cause: str = "") -> Swap:
        """Begin to go back to the verifier before the present one.

        Raises:
            RefusedError: there is none, or another change is under way.
        """
        before, former = self._epochs.in_force(name), self._epochs.former(name)
        if former is None:
            raise RefusedError(f"verifier {name!r} was never swapped: there is nothing to go back to")
        self._refuse_if_busy()
        verifier = msgspec.structs.replace(former, epoch=self._epochs.next_epoch)
        return self._begin(Swap(_swap_id(verifier), verifier, before, author, is_rollback=True, cause=cause))

    def decide(self, swap_id: str, *, commit: bool) -> Swap:
        """A person's word on a swap that is held, or that should stop.

        Raises:
            RefusedError: it has ended, or it is not held yet.
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
        rewards = [member.actor_id for member in self._members.of("reward")]
        self._perform_all(followed, swap.begin(rewards, monotonic_s()))
        return swap

    # -- effects

    def _happened(self, followed: _Followed, event: Event) -> None:
        self._perform_all(followed, followed.swap.handle(event, monotonic_s()))

    def _perform_all(self, followed: _Followed, effects: list[Effect]) -> None:
        for effect in effects:
            self._spawn(self._perform(followed, effect))

    async def _perform(self, followed: _Followed, effect: Effect) -> None:
        swap = followed.swap
        match effect:
            case Prepare():
                self._happened(followed, await self._prepare(effect))
            case CountShadow(epoch, after_s):
                await asyncio.sleep(after_s)
                self._happened(followed, ShadowCounted(await self._count_shadow(epoch)))
            case CommitDurably():
                self._happened(followed, self._commit_durably(effect))
            case TellCommit(verifier):
                await self._tell("reward", CommitVerifier(verifier))  # first: replay sends it groups to judge again
                await self._tell("replay", ApplyEpochRules(self._epochs.rules))
                self._happened(followed, CommitTold())
            case RecordCommit():
                self._on_commit(swap.verifier.name)
                self._event(
                    "verifier_rolled_back" if swap.is_rollback else "verifier_swapped",
                    author=swap.author, verifier=swap.verifier.name, before=msgspec.to_builtins(swap.before),
                    after=msgspec.to_builtins(swap.verifier), rescore=swap.rescore, cause=swap.cause,
                )  # fmt: skip
                followed.ended.set()
            case RecordAbort(reason):
                self._event(
                    "verifier_swap_aborted", author=swap.author, verifier=swap.verifier.name, reason=reason,
                    use=swap.verifier.use,
                )  # fmt: skip
            case Discard(epoch):
                await self._tell("reward", DropPrepared(epoch))
                followed.ended.set()

    async def _prepare(self, effect: Prepare) -> Prepared | PrepareRefused | ActorLost:
        actor_id = effect.actor_id
        member = self._members.by_id.get(actor_id)
        message = PrepareVerifier(effect.verifier, is_shadow=effect.is_shadow)
        try:
            answer = await self._links.command(actor_id, message, timeout_s=effect.timeout_s)
        except RefusedError as refusal:
            return PrepareRefused(actor_id, f"{actor_id}: {refusal}")
        except PeerTimeoutError as silence:
            is_there = self._members.by_id.get(actor_id) == member
            return PrepareRefused(actor_id, str(silence)) if is_there else ActorLost(actor_id)
        except RingAsyncError:
            return ActorLost(actor_id)
        assert isinstance(answer, VerifierPrepared)
        return Prepared(actor_id, answer.version, answer.num_cases)

    async def _count_shadow(self, epoch: int) -> ShadowCounts:
        rewards = [member.actor_id for member in self._members.of("reward")]
        counted = await asyncio.gather(*(self._shadow_of(actor_id, epoch) for actor_id in rewards))
        return sum(counted, ShadowCounts())

    async def _shadow_of(self, actor_id: str, epoch: int) -> ShadowCounts:
        """What one reward actor counted: nothing if it is away, or came after the verifier was prepared."""
        try:
            answer = await self._links.command(actor_id, ReportShadow(epoch), timeout_s=SHADOW_TIMEOUT_S)
        except RingAsyncError:
            return ShadowCounts()
        assert isinstance(answer, ShadowReported)
        return answer.counts

    def _commit_durably(self, effect: CommitDurably) -> CommitDurable | CommitFailed:
        as_it_was = self._epochs.snapshot()
        try:
            if effect.is_rollback:
                self._epochs.roll_back(effect.verifier)
            else:
                self._epochs.commit(effect.verifier, rescore=effect.rescore)
            self._note_epochs()
        except StorageError as full:
            self._epochs.restore(as_it_was)
            return CommitFailed(str(full))
        except RefusedError as refusal:
            return CommitFailed(str(refusal))
        return CommitDurable()

    async def _tell(self, role: str, message: Message) -> None:
        """Have every member of a role carry out a command."""
        await asyncio.gather(*(self._tell_one(member.actor_id, message) for member in self._members.of(role)))

    async def _tell_one(self, actor_id: str, message: Message) -> None:
        """Until the actor has done it, or is gone: one that registers later is told then."""
        told = self._members.by_id.get(actor_id)
        command = functools.partial(self._links.command, actor_id, message, timeout_s=COMMIT_RETRY_S)
        try:
            await ask_until_answered(command, is_gone=lambda: self._members.by_id.get(actor_id) != told)
        except PeerGoneError:
            pass
        except RefusedError as refusal:
            log.error("%s refused %s: %s", actor_id, type(message).__name__, refusal)


def _swap_id(verifier: VerifierInForce) -> str:
    return f"{verifier.name}-{verifier.epoch}"


def plain_swap(swap: Swap) -> dict[str, Any]:
    """A swap for the API: what changes, how far it is, and how the two verifiers compare."""
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

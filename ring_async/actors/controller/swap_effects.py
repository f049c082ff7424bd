"""The effects of a verifier swap: commands to reward actors and replay, and the commit in the journal.

    Swap (core) ──Effect──▶ SwapEffects ──commands──▶ reward actors, replay
                                │ └──epochs──▶ journal
                                └──the Event it led to──▶ VerifierSwaps

Owns: each effect's messages to actors, and the durable change of epochs. Does not own what follows from an event.
Invariant: a commit is durable before anybody hears of it, so an actor that dies in the middle learns of it when it
registers again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

import msgspec

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.waits import ask_until_answered
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import Role
from ring_async.core.verifier_epochs import VerifierEpochs
from ring_async.core.verifier_swap import (
    ActorLost,
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

log = logging.getLogger(__name__)

COMMIT_RETRY_S = 5.0
SHADOW_TIMEOUT_S = 5.0


class SwapEffects:
    """Performs effects. Args: a commit advances `epochs`; `on_commit` gets the name of the verifier that changed."""

    def __init__(
        self, context: RunContext, fleet: FleetShell, epochs: VerifierEpochs, on_commit: Callable[[str], None]
    ) -> None:
        self._notes = context.notes
        self._event = context.run_log.event
        self._links = fleet.links
        self._members = fleet.members
        self._epochs = epochs
        self._on_commit = on_commit

    async def perform(self, swap: Swap, effect: Effect) -> Event | None:
        """Carry out one effect; returns the event that results, or None."""
        match effect:
            case Prepare():
                return await self._prepare(effect)
            case CountShadow(epoch, after_s):
                await asyncio.sleep(after_s)
                return ShadowCounted(await self._count_shadow(epoch))
            case CommitDurably():
                return self._commit_durably(effect)
            case TellCommit(verifier):
                # reward actors first, because replay sends them the groups to judge again
                await self._tell(Role.REWARD, CommitVerifier(verifier))
                await self._tell(Role.REPLAY, ApplyEpochRules(self._epochs.rules))
                return CommitTold()
            case RecordCommit():
                self._record_commit(swap)
            case RecordAbort(reason):
                verifier = swap.verifier
                self._event(
                    EventKind.VERIFIER_SWAP_ABORTED,
                    author=swap.author,
                    verifier=verifier.name,
                    reason=reason,
                    use=verifier.use,
                )
            case Discard(epoch):
                await self._tell(Role.REWARD, DropPrepared(epoch))
        return None

    def _record_commit(self, swap: Swap) -> None:
        self._on_commit(swap.verifier.name)
        self._event(
            EventKind.VERIFIER_ROLLED_BACK if swap.is_rollback else EventKind.VERIFIER_SWAPPED,
            author=swap.author, verifier=swap.verifier.name, before=msgspec.to_builtins(swap.before),
            after=msgspec.to_builtins(swap.verifier), rescore=swap.rescore, cause=swap.cause,
        )  # fmt: skip

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
        rewards = [member.actor_id for member in self._members.of(Role.REWARD)]
        counted = await asyncio.gather(*(self._shadow_of(actor_id, epoch) for actor_id in rewards))
        return sum(counted, ShadowCounts())

    async def _shadow_of(self, actor_id: str, epoch: int) -> ShadowCounts:
        """The shadow counts of one reward actor; zeros if it is away, or started after the verifier was prepared."""
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
            self._notes.put("verifiers", self._epochs.snapshot())
        except StorageError as full:
            self._epochs.restore(as_it_was)
            return CommitFailed(str(full))
        except RefusedError as refusal:
            return CommitFailed(str(refusal))
        return CommitDurable()

    async def _tell(self, role: Role, message: Message) -> None:
        """Send a command to every member of a role, and wait until each has carried it out."""
        await asyncio.gather(*(self._tell_one(member.actor_id, message) for member in self._members.of(role)))

    async def _tell_one(self, actor_id: str, message: Message) -> None:
        """Repeat a command until the actor has carried it out or is gone; actors that register later hear it then."""
        told = self._members.by_id.get(actor_id)
        if told is None:
            return
        command = functools.partial(self._links.command, actor_id, message, timeout_s=COMMIT_RETRY_S)
        try:
            await ask_until_answered(command, is_gone=lambda: self._members.by_id.get(actor_id) != told)
        except PeerGoneError:
            pass
        except RefusedError as refusal:
            log.error("%s refused %s: %s", actor_id, type(message).__name__, refusal)

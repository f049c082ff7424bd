"""Changing a verifier while the run goes on: prepare, shadow, commit, roll back.

    swap ──▶ preparing ──all reward actors built and checked it──▶ shadowing ──N judged along──▶ [held] ──▶ committed
                 └──────────── any of them refused, or a person did ──▶ aborted: the old one never stopped

Owns: the one change under way, its report, and bringing a commit to everybody. Does not own verifiers (reward actors
have them), epochs (`core.verifier_epochs`), or which groups a change bars (replay).
Invariants: a commit is durable before anybody hears of it, so an actor that dies in the middle learns of it when it
registers again; one change at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ring_async.actors.controller.member_book import MemberBook
from ring_async.actors.controller.member_links import MemberLinks
from ring_async.actors.verifiers_in_force import add_reports
from ring_async.clock import monotonic_s
from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.core.verifier_epochs import VerifierEpochs
from ring_async.errors import PeerTimeoutError, RefusedError, RingAsyncError, StorageError
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

PREPARE_TIMEOUT_S = 300.0
"""Longest time to load a verifier and judge its golden cases; a reward model on a slow disk needs minutes."""
COMMIT_RETRY_S = 5.0
SHADOW_POLL_S = 0.2
MAX_SHADOW_FAILURE_RATE = 0.5
MIN_SHADOW_GROUPS = 8
NUM_REMEMBERED = 50


@dataclass(slots=True)
class Swap:
    """One change of a verifier, from its request to its end."""

    swap_id: str
    verifier: VerifierInForce
    author: str
    shadow: int = 0
    """Trajectories that both verifiers judge before the commit."""
    rescore: bool = False
    is_held: bool = False
    """After the shadow, wait for a person."""
    is_rollback: bool = False
    cause: str = ""
    state: str = "preparing"
    reason: str = ""
    num_cases: int = 0
    prepare_s: float = 0.0
    commit_s: float = 0.0
    report: ShadowReported = field(default_factory=ShadowReported)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        return self.state in ("committed", "aborted")

    def to_plain(self) -> dict[str, Any]:
        """For the API: what changes, how far it is, and how the two verifiers compare."""
        report = self.report
        num = max(report.num_trajectories, 1)
        return {
            "swap_id": self.swap_id,
            "state": self.state,
            "reason": self.reason,
            "verifier": msgspec.to_builtins(self.verifier),
            "author": self.author,
            "is_rollback": self.is_rollback,
            "rescore": self.rescore,
            "golden_cases": self.num_cases,
            "prepare_s": self.prepare_s,
            "commit_s": self.commit_s,
            "shadow": {
                "wanted": self.shadow,
                "trajectories": report.num_trajectories,
                "agreement": report.num_agreed / num,
                "reward_before": report.reward_before / num,
                "reward_after": report.reward_after / num,
                "seconds_before": report.seconds_before / num,
                "seconds_after": report.seconds_after / num,
                "failures": report.failures,
            },
        }


class SwapDesk:
    """See the module.

    Args:
        folder: where files of verifiers given by path are kept, by content, so that the run can build them again.
        noted: what the journal remembers of earlier changes, or None.
        note: makes the present state durable.
        event: writes a line of `events.jsonl`.
        spawn: runs work that outlives a call.
        on_commit: told the name of a verifier that changed.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        links: MemberLinks,
        book: MemberBook,
        *,
        noted: dict[str, Any] | None,
        note: Callable[[dict[str, Any]], None],
        event: Callable[..., None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_commit: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._links = links
        self._book = book
        self._note = note
        self._event = event
        self._spawn = spawn
        self._on_commit = on_commit
        self._swaps: dict[str, Swap] = {}
        self._epochs = VerifierEpochs(
            VerifierInForce(name, section.use, section.options, epoch=0) for name, section in config.verifiers.items()
        )
        for before, after in self._epochs.restore(noted) if noted is not None else ():
            event(
                "verifier_reconfigured", author="configuration", verifier=after.name,
                before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
        note(self._epochs.snapshot())  # what a resumed run compares its configuration with

    # -- what others ask

    @property
    def changed(self) -> tuple[VerifierInForce, ...]:
        """Verifiers in force that are not those of the configuration."""
        return self._epochs.changed

    @property
    def rules(self) -> dict[str, EpochRules]:
        return self._epochs.rules

    def in_force(self, name: str) -> VerifierInForce:
        return self._epochs.in_force(name)

    def can_roll_back(self, name: str) -> bool:
        return self._epochs.former(name) is not None

    def get(self, swap_id: str) -> Swap:
        """
        Raises:
            RefusedError: there is no such swap.
        """
        if swap_id not in self._swaps:
            raise RefusedError(f"no swap {swap_id!r}; known are {', '.join(self._swaps) or 'none'}")
        return self._swaps[swap_id]

    # -- changes

    def swap(
        self, name: str, use: str, options: dict[str, Any], *, author: str, shadow: int, rescore: bool, hold: bool
    ) -> Swap:
        """Begin to change a verifier.

        Raises:
            RefusedError: no such verifier, or another change is under way.
            ConfigError: the file that it is to be loaded from cannot be read.
        """
        self._epochs.in_force(name)
        self._refuse_if_busy()
        use, options = keep_file(use, self._folder), keep_options(options, self._folder)
        verifier = VerifierInForce(name, use, options, self._epochs.next_epoch)
        return self._begin(Swap(f"{name}-{verifier.epoch}", verifier, author, shadow, rescore, hold))

    def roll_back(self, name: str, *, author: str, cause: str = "") -> Swap:
        """Begin to go back to the verifier before the present one.

        Raises:
            RefusedError: there is none, or another change is under way.
        """
        self._epochs.in_force(name)
        former = self._epochs.former(name)
        if former is None:
            raise RefusedError(f"verifier {name!r} was never swapped: there is nothing to go back to")
        self._refuse_if_busy()
        verifier = msgspec.structs.replace(former, epoch=self._epochs.next_epoch)
        return self._begin(Swap(f"{name}-{verifier.epoch}", verifier, author, is_rollback=True, cause=cause))

    def decide(self, swap_id: str, *, commit: bool) -> Swap:
        """A person's word on a swap that is held, or that should stop.

        Raises:
            RefusedError: it has ended, or it is not held yet.
        """
        swap = self.get(swap_id)
        if swap.has_ended or swap.state == "committing":
            raise RefusedError(f"swap {swap_id} is {swap.state}{f' ({swap.reason})' if swap.reason else ''}")
        if commit and swap.state != "held":
            raise RefusedError(f"swap {swap_id} is {swap.state}; it can be committed once it is held")
        if not commit:
            swap.reason = "called off"
        swap.decided.set()
        return swap

    # -- parts

    def _refuse_if_busy(self) -> None:
        for swap in self._swaps.values():
            if not swap.has_ended:
                raise RefusedError(f"swap {swap.swap_id} is {swap.state}; one change at a time")

    def _begin(self, swap: Swap) -> Swap:
        self._swaps[swap.swap_id] = swap
        for old in list(self._swaps)[:-NUM_REMEMBERED]:
            del self._swaps[old]
        self._spawn(self._carry_out(swap))
        return swap

    async def _carry_out(self, swap: Swap) -> None:
        try:
            await self._prepare(swap)
            await self._compare(swap)
            if swap.is_held and not swap.reason:
                swap.state = "held"
                await swap.decided.wait()
            if swap.reason:
                raise RefusedError(swap.reason)
            await self._commit(swap)
        except RingAsyncError as refusal:
            swap.state, swap.reason = "aborted", str(refusal)
            self._event(
                "verifier_swap_aborted", author=swap.author, verifier=swap.verifier.name, reason=swap.reason,
                use=swap.verifier.use,
            )  # fmt: skip
            await self._tell_rewards(DropPrepared(swap.verifier.epoch))
        finally:
            swap.ended.set()

    async def _prepare(self, swap: Swap) -> None:
        """Every reward actor builds it and checks it; one that dies meanwhile builds it when it is committed."""
        message = PrepareVerifier(swap.verifier, is_shadow=swap.shadow > 0)
        began_s = monotonic_s()
        answers = await self._ask_rewards(message, PREPARE_TIMEOUT_S)
        prepared = [answer for answer in answers if isinstance(answer, VerifierPrepared)]
        if not prepared:
            raise RefusedError("no reward actor is there to prepare it")
        if len(versions := {one.version for one in prepared}) > 1:
            raise RefusedError(f"reward actors see different code: versions {', '.join(sorted(versions))}")
        swap.verifier = msgspec.structs.replace(swap.verifier, version=prepared[0].version)
        swap.num_cases, swap.prepare_s = prepared[0].num_cases, monotonic_s() - began_s
        current = self._epochs.in_force(swap.verifier.name)
        if current.version == swap.verifier.version and not swap.is_rollback:
            raise RefusedError(f"version {current.version} is in force already")

    async def _compare(self, swap: Swap) -> None:
        """Let both judge until enough was judged by both."""
        if not swap.shadow:
            return
        swap.state = "shadowing"
        while swap.report.num_trajectories < swap.shadow and not swap.reason:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(swap.decided.wait(), SHADOW_POLL_S)
            answers = await self._ask_rewards(ReportShadow(swap.verifier.epoch), COMMIT_RETRY_S, is_lenient=True)
            swap.report = add_reports(one for one in answers if isinstance(one, ShadowReported))
            num_failed = sum(swap.report.failures.values())
            if num_failed >= MIN_SHADOW_GROUPS and num_failed > MAX_SHADOW_FAILURE_RATE * swap.report.num_groups:
                causes = ", ".join(f"{number} {cause}" for cause, number in swap.report.failures.items())
                raise RefusedError(f"it could not judge {num_failed} of {swap.report.num_groups} groups ({causes})")

    async def _commit(self, swap: Swap) -> None:
        """Durable first; then reward actors, so that what replay sends to be judged again meets the new one."""
        swap.state = "committing"
        verifier, began_s = swap.verifier, monotonic_s()
        before, as_it_was = self._epochs.in_force(verifier.name), self._epochs.snapshot()
        if swap.is_rollback:
            self._epochs.roll_back(verifier)
        else:
            self._epochs.commit(verifier, rescore=swap.rescore)
        try:
            self._note(self._epochs.snapshot())
        except StorageError:
            self._epochs.restore(as_it_was)
            raise
        await self._tell_rewards(CommitVerifier(verifier))
        rules = ApplyEpochRules(self._epochs.rules)
        await asyncio.gather(*(self._until_told(member.actor_id, rules) for member in self._book.of(Role.REPLAY)))
        swap.commit_s = monotonic_s() - began_s
        swap.state = "committed"
        self._on_commit(verifier.name)
        self._event(
            "verifier_rolled_back" if swap.is_rollback else "verifier_swapped",
            author=swap.author, verifier=verifier.name, before=msgspec.to_builtins(before),
            after=msgspec.to_builtins(verifier), rescore=swap.rescore, cause=swap.cause,
        )  # fmt: skip

    async def _tell_rewards(self, message: Message) -> None:
        await asyncio.gather(*(self._until_told(member.actor_id, message) for member in self._book.of(Role.REWARD)))

    async def _until_told(self, actor_id: str, message: Message) -> None:
        """Until the actor has done it, or is gone: one that registers later is told then."""
        told = self._book.members.get(actor_id)
        while told is not None and self._book.members.get(actor_id) == told:
            try:
                await self._links.command(actor_id, message, timeout_s=COMMIT_RETRY_S)
                return
            except RefusedError as refusal:
                log.error("%s refused %s: %s", actor_id, type(message).__name__, refusal)
                return
            except RingAsyncError:
                await asyncio.sleep(0.1)

    async def _ask_rewards(self, message: Message, timeout_s: float, *, is_lenient: bool = False) -> list[Any]:
        """Everybody's answers; None of one that is gone, or, if lenient, that has nothing to say."""
        return list(
            await asyncio.gather(
                *(self._ask(member.actor_id, message, timeout_s, is_lenient) for member in self._book.of(Role.REWARD))
            )
        )

    async def _ask(self, actor_id: str, message: Message, timeout_s: float, is_lenient: bool) -> Message | None:
        member = self._book.members.get(actor_id)
        try:
            return await self._links.command(actor_id, message, timeout_s=timeout_s)
        except RefusedError as refusal:
            if is_lenient:
                return None
            raise RefusedError(f"{actor_id}: {refusal}") from refusal
        except RingAsyncError as error:
            if is_lenient or not isinstance(error, PeerTimeoutError) or self._book.members.get(actor_id) != member:
                return None
            raise

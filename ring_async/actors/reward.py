"""The reward actor: it judges groups with the verifiers in force.

    rollouts ──GroupGenerated──▶ [data inbox] ──decode──▶ verifier ──▶ GroupScored ──▶ replay (shard of the group)
                                     ▲ acknowledged only after replay's durable commit

Owns: the tokenizer, and the verifiers through its `VerifierSet`. A reward actor keeps no state: a group is
acknowledged to its rollout when replay has committed it, so the death of a reward actor loses nothing.
Invariants: a verifier that cannot judge is `failed(cause)`, never a reward of 0. A group that cannot be judged, or is
malformed, is refused to its rollout, which hands it back: it is judged again, or fails with its cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import msgspec

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.replay.planner import shard_of
from ring_async.actors.verifier_files import bring_files
from ring_async.actors.verifiers_in_force import Service, VerifierSet
from ring_async.actors.waits import finish_or_cancel, until_stopped
from ring_async.clock import monotonic_s
from ring_async.columns import Buffer
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role
from ring_async.engines.tokenizer import decode_response
from ring_async.errors import RefusedError, VerifierError
from ring_async.records.figures import RewardFigures
from ring_async.telemetry import metrics
from ring_async.telemetry.idle import IdleMeter
from ring_async.telemetry.observe import observe_verdicts
from ring_async.transport.base import Delivery
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.changes import (
    CommitVerifier,
    DropPrepared,
    PrepareVerifier,
    ReportShadow,
    ShadowReported,
    UseSources,
    VerifierFailing,
)
from ring_async.transport.messages.fleet import Registered
from ring_async.transport.messages.work import GroupGenerated, GroupScored
from ring_async.types import Group, GroupHeader, Verdict, VerifierStamp
from ring_async.verifiers.base import Response
from ring_async.verifiers.quarantine import Quarantine
from ring_async.verifiers.scoring import judge_group

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """A group that was read and can be judged: `verifier` is the name of the one that judges its source."""

    header: GroupHeader
    verifier: str
    responses: list[Response]


class Reward(Actor):
    """Judges groups. Args: `make_tokenizer` loads the model's tokenizer."""

    role: ClassVar[Role] = Role.REWARD
    slow_commands: ClassVar[tuple[type[Message], ...]] = (PrepareVerifier, CommitVerifier)

    def __init__(self, context: ActorContext, make_tokenizer: Callable[[], Any]) -> None:
        super().__init__(context)
        self._make_tokenizer = make_tokenizer
        self._tokenizer: Any = None
        self._verifiers = VerifierSet(self.config, partial(bring_files, self.controller, context.run_dir.verifiers))
        self._source_verifiers = {name: source.verifier for name, source in self.config.sources.items()}
        self._quarantine = Quarantine()
        self._judging: set[asyncio.Task[None]] = set()
        self._shadows: set[asyncio.Task[None]] = set()
        self._idle = IdleMeter(metrics.reward_waiting_seconds, otherwise=WaitCause.GROUP)
        self._num_verdicts = 0
        self._busy_s = 0.0
        self._swap_wait_s = 0.0
        """Time that groups waited for a verifier to be put in force."""

    async def open(self) -> None:
        self._tokenizer = await asyncio.to_thread(self._make_tokenizer)
        await self._verifiers.open(sorted({self._source_verifiers[name] for name in self.config.mixture}))
        self.open_data_inbox(num_credits=self.config.reward.credits)

    async def joined(self, registered: Registered) -> None:
        self._source_verifiers |= registered.source_verifiers
        await self._verifiers.adopt(registered.verifiers)

    async def close(self) -> None:
        await self._verifiers.close()

    async def on_command(self, message: Message) -> Message:
        match message:
            case PrepareVerifier(verifier, is_shadow):
                return await self._verifiers.prepare(verifier, is_shadow=is_shadow)
            case ReportShadow(epoch):
                return ShadowReported(self._verifiers.shadow_counts(epoch))
            case CommitVerifier(verifier):
                await self._verifiers.commit(verifier)
            case DropPrepared(epoch):
                self._verifiers.drop(epoch)
            case UseSources(source_verifiers):
                self._source_verifiers |= source_verifiers
            case _:
                return await super().on_command(message)
        return Done()

    def counters(self) -> RewardFigures:
        self._idle.flush()
        for name, epoch in self._verifiers.epochs().items():
            metrics.reward_verifier_epoch.labels(verifier=name).set(epoch)
        return RewardFigures(verdicts=self._num_verdicts, busy_s=self._busy_s, swap_wait_s=self._swap_wait_s)

    async def main(self) -> None:
        async with asyncio.TaskGroup() as groups:
            receiving = groups.create_task(self._receive(groups), name="receive")
            await until_stopped(self.stopping, receiving)
            await finish_or_cancel(self._judging, self.stop_deadline_s - monotonic_s())
            await finish_or_cancel(self._shadows, 0.0)

    async def _receive(self, groups: asyncio.TaskGroup) -> None:
        """Consumes groups / produces scored groups / waits for a group / freed by any rollout.

        The inbox's credits bound how many groups are judged at once.
        """
        while True:
            delivery = await self.data_inbox.receive()
            judging = groups.create_task(self._judge(delivery), name="judge")
            self._judging.add(judging)
            judging.add_done_callback(self._judging.discard)

    async def _judge(self, delivery: Delivery) -> None:
        if not isinstance(delivery.message, GroupGenerated):
            delivery.refuse(f"{self.actor_id} judges groups, not {type(delivery.message).__name__}")
            return
        try:
            work = self._read(delivery.message, delivery.buffers)
        except Exception as error:  # a tokenizer may raise anything about ids that it does not know
            log.error("%s: group %s is malformed: %s", self.actor_id, delivery.message.group.group_id, error)
            delivery.refuse(f"malformed: {type(error).__name__}: {error}")
            return
        try:
            asked_s = monotonic_s()
            async with self._verifiers.judging(work.verifier) as service:
                self._swap_wait_s += monotonic_s() - asked_s
                outcomes = await self._score(work, service)
        except VerifierError as failure:
            # Refused, not acknowledged: a message that was acknowledged would not be judged when it comes again.
            log.warning("group %s could not be judged: %s", work.header.group_id, failure)
            delivery.refuse(f"verifier:{failure.cause}: {failure}")
            return
        await self._forward(delivery, scored(work.header, outcomes, service.stamp))

    def _read(self, message: GroupGenerated, buffers: Sequence[Buffer]) -> _Work:
        """Read what is to be judged. Raises, for a malformed group, what the types and the tokenizer raise."""
        group = Group.from_buffers(message.group, buffers)
        source = group.header.prompt.source
        if source not in self._source_verifiers:
            raise ValueError(f"group {group.header.group_id}: no verifier is known here for source {source!r}")
        return _Work(group.header, self._source_verifiers[source], self._responses(group))

    async def _score(self, work: _Work, service: Service) -> list[Verdict | VerifierError]:
        """Judge a group with the verifier in force. A verifier that is being tried judges the same responses
        afterwards.
        """
        header, responses, verifier = work.header, work.responses, service.verifier
        began_s = monotonic_s()
        try:
            with self.tracer.span("score"), self._idle.working():
                reward = self.config.reward
                outcomes = await judge_group(verifier, header.prompt, responses, reward.timeout_s, reward.bound)
        except VerifierError as failure:
            metrics.reward_failures.labels(verifier=verifier.name, cause=failure.cause).inc()
            await self._record(service.stamp, failure.cause)
            raise
        verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
        unjudged = [outcome for outcome in outcomes if isinstance(outcome, VerifierError)]
        for one in unjudged:
            metrics.reward_failures.labels(verifier=verifier.name, cause=one.cause).inc()
            log.warning("a response of group %s could not be judged: %s", header.group_id, one)
        await self._record(service.stamp, unjudged[0].cause if len(unjudged) > len(verdicts) else None)
        self._busy_s += (took_s := monotonic_s() - began_s)
        metrics.reward_verdict_seconds.labels(verifier=verifier.name).observe(took_s)
        observe_verdicts([verdict.reward for verdict in verdicts], header.prompt.source, service.epoch)
        self._num_verdicts += len(verdicts)
        metrics.reward_verdicts.labels(verifier=verifier.name).inc(len(verdicts))
        if not unjudged and (shadow := self._verifiers.shadow_of(verifier.name)) is not None:
            along = asyncio.create_task(self._verifiers.judge_along(shadow, header, responses, verdicts, took_s))
            self._shadows.add(along)
            along.add_done_callback(self._shadows.discard)
        return outcomes

    def _responses(self, group: Group) -> list[Response]:
        return [
            Response(decode_response(self._tokenizer, t.response_ids), t.header.num_tokens, t.header.finish_reason)
            for t in group
        ]

    async def _forward(self, delivery: Delivery, header: GroupHeader) -> None:
        shard = shard_of(header.group_id, self.config.replay.num)
        await self.registered(Role.REPLAY, shard)
        link = self.data_link(shard)
        assert header.verifier is not None
        message_id = f"{header.group_id}@{header.verifier.epoch}"
        async with self.waits.on(f"credit and commit from {shard}", cause=WaitCause.COMMIT):
            with self._idle.waiting(WaitCause.COMMIT):
                committed = await link.send(GroupScored(header), delivery.buffers, message_id=message_id)
                try:
                    await committed
                except RefusedError as refusal:
                    delivery.refuse(refusal.reason)
                    return
        delivery.ack()

    async def _record(self, stamp: VerifierStamp, cause: str | None) -> None:
        """Count a verifier's failures; above the threshold, tell the controller, which pauses the verifier's sources.

        `_judge` keeps the group until the controller has answered.
        """
        tripped = self._quarantine.record(stamp.name, f"{stamp.version} of epoch {stamp.epoch}", cause)
        if tripped is None:
            return
        causes = ", ".join(f"{number} {cause}" for cause, number in tripped.causes)
        reason = f"{tripped.error_rate:.0%} of the last {tripped.num_verdicts} groups could not be judged ({causes})"
        log.error("verifier %s: %s", stamp.name, reason)
        await self.ask_controller(VerifierFailing(stamp.name, stamp.version, stamp.epoch, reason))


def scored(header: GroupHeader, outcomes: Sequence[Verdict | VerifierError], stamp: VerifierStamp) -> GroupHeader:
    """The group's header with a reward, or the reason why there is none, for each trajectory: one verifier epoch's."""
    trajectories = tuple(
        msgspec.structs.replace(trajectory, reward=None, reward_parts={}, failure=outcome.cause)
        if isinstance(outcome, VerifierError)
        else msgspec.structs.replace(trajectory, reward=outcome.reward, reward_parts=outcome.parts, failure="")
        for trajectory, outcome in zip(header.trajectories, outcomes, strict=True)
    )
    return msgspec.structs.replace(header, trajectories=trajectories, verifier=stamp)

"""The rollout actor: it generates groups of K responses, under the newest weights it holds.

    controller ──reservations──▶ [generate K] ──GroupGenerated──▶ reward ──(acknowledged after replay's commit)──▶ done
    learner ──weights──▶ stage (generation goes on) ──▶ swap between two tokens

Owns: one engine, and the groups it generates, whose leases it renews until they are acknowledged. Does not own how much
to generate (the controller's admission decides), which weights are next (`weight_follower`), nor what outlives this
actor (`handover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ring_async.actors.base import REQUEST_TIMEOUT_S, Actor, ActorContext
from ring_async.actors.group_assembly import group_of
from ring_async.actors.handover import PartialHandover
from ring_async.actors.waits import finish_or_cancel, until_stopped
from ring_async.actors.weight_follower import WeightFollower
from ring_async.clock import monotonic_s
from ring_async.config.tunable import retention_under
from ring_async.core.fleet.states import WaitCause
from ring_async.core.ids import trajectory_id_for
from ring_async.core.replay.partials import PartialResponse
from ring_async.core.roster import Role
from ring_async.core.work.retention import Retention
from ring_async.engines.base import GenerationAborted, GenerationRequest, RolloutEngine
from ring_async.engines.tokenizer import encode_prompt
from ring_async.errors import ActorFailedError, PeerTimeoutError, PromptRefusedError, RefusedError
from ring_async.records.figures import RolloutFigures
from ring_async.telemetry import metrics
from ring_async.telemetry.idle import IdleMeter
from ring_async.telemetry.observe import EngineMeter
from ring_async.trajectory_states import EndCause
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.fleet import Holding, Pause, Registered, Resume
from ring_async.transport.messages.versions import UseWeights, WeightsAdopted
from ring_async.transport.messages.work import (
    GroupGenerated,
    GroupsFailed,
    GroupsReserved,
    LeasesRenewed,
    PromptRefused,
    RenewLeases,
    ReserveGroups,
)
from ring_async.transport.weights.base import WeightReceiver
from ring_async.types import Generation, Group, Int32, Reservation

log = logging.getLogger(__name__)

LAST_HANDOVER_S = 1.0
"""Time kept for the handover of unfinished responses, of the time that a leaving actor has."""


class Rollout(Actor):
    """Generates groups. Args: `engine` samples responses; `receiver` fetches published weights; `make_tokenizer` loads
    the model's tokenizer.
    """

    role: ClassVar[Role] = Role.ROLLOUT

    def __init__(
        self, context: ActorContext, engine: RolloutEngine, receiver: WeightReceiver, make_tokenizer: Callable[[], Any]
    ) -> None:
        super().__init__(context)
        self.engine = engine
        self._weights = WeightFollower(engine, receiver, self.config.rollout.on_update, self.tracer)
        self._why_none = ""
        """Why the last request for work was not granted; empty if it was."""
        self._handover = PartialHandover(self, engine, self.config.rollout.handover_s)
        self._retention = Retention(self.config.retention_versions)
        self._make_tokenizer = make_tokenizer
        self._tokenizer: Any = None
        self._meter = EngineMeter()
        self._idle = IdleMeter(metrics.rollout_waiting_seconds)
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._may_generate = asyncio.Event()
        """Set when the engine has free slots again, or its first weights."""

    async def open(self) -> None:
        self._tokenizer = await asyncio.to_thread(self._make_tokenizer)
        await self.engine.start()

    async def joined(self, registered: Registered) -> None:
        if registered.weights is not None:
            self._weights.hear_of(registered.weights)
        self._retention.max_staleness = retention_under(self.config, registered.knobs)
        follow = self._unpaused.clear if registered.is_paused else self._unpaused.set
        follow()

    def holds(self) -> Holding:
        return Holding(group_ids=tuple(self._in_flight))

    async def close(self) -> None:
        await self.engine.close()
        self._weights.close()

    def parts(self) -> dict[str, object]:
        return super().parts() | {"engine": self.engine, "receiver": self._weights.receiver}

    def counters(self) -> RolloutFigures:
        load = self.engine.load()
        self._meter.observe(load)
        self._idle.flush()
        version = self.engine.policy_version
        metrics.rollout_version_lag.set(self._weights.lag)
        return RolloutFigures(
            generated_tokens=load.generated_tokens,
            busy_s=load.busy_s,
            running=load.num_running,
            capacity=load.capacity,
            groups_in_flight=len(self._in_flight),
            policy_version=version.number if version else None,
        )

    async def on_command(self, message: Message) -> Message:
        match message:
            case UseWeights(announcement):
                self._weights.hear_of(announcement)
            case Pause():
                self._unpaused.clear()
            case Resume():
                self._unpaused.set()
            case TuneKnobs(knobs):
                self._retention.max_staleness = retention_under(self.config, knobs)
            case _:
                return await super().on_command(message)
        return Done()

    async def main(self) -> None:
        async with asyncio.TaskGroup() as groups:
            loops = [
                groups.create_task(self._follow_weights(), name="weights"),
                groups.create_task(self._take_work(groups), name="take_work"),
                groups.create_task(self._keep_leases(), name="leases"),
            ]
            if self.config.rollout.handover_s:
                loops.append(groups.create_task(self._handover.run(), name="handover"))
            await until_stopped(self.stopping, *loops)
            await self._let_go()

    # -- weights

    async def _follow_weights(self) -> None:
        """Consumes announcements / produces swapped weights / waits for a version / freed by the learner."""
        while True:
            await self._weights.until_due()
            taken_up = await self._weights.take_up()
            if taken_up is None:
                continue
            metrics.rollout_stage_seconds.observe(taken_up.stage_s)
            metrics.rollout_swap_pause.observe(taken_up.pause_s)
            metrics.rollout_policy_version.set(taken_up.version.number)
            self._may_generate.set()
            if overdue := self._retention.overdue(taken_up.version):
                await self.engine.abort(overdue)
            try:
                adopted = WeightsAdopted(taken_up.version, taken_up.stage_s, taken_up.pause_s)
                await self.controller.request(adopted, timeout_s=REQUEST_TIMEOUT_S)
            except PeerTimeoutError:
                log.warning("%s: controller-0 did not hear of version %s", self.actor_id, taken_up.version)

    # -- groups

    async def _take_work(self, groups: asyncio.TaskGroup) -> None:
        """Consumes reservations / produces groups / waits for a slot, weights, admission / freed by each of them."""
        group_size = self.config.rollout.group_size
        while True:
            with self._idle.waiting(WaitCause.PAUSED):
                await self._unpaused.wait()
            if self.engine.policy_version is None:
                await self._first_weights()
            load = self.engine.load()
            free = load.capacity + group_size - 1 - load.num_running - load.num_waiting
            if free < group_size:
                await self._until_slot_free()
                continue
            reserved = await self._reserve(free // group_size)
            for reservation in reserved.reservations:
                if reservation.group_id in self._in_flight:
                    continue  # its lease ran out while this rollout went on with it: the new lease is for the same work
                task = groups.create_task(self._generate_group(reservation), name=reservation.group_id)
                self._in_flight[reservation.group_id] = task
            await asyncio.sleep(0)  # let the new requests reach the engine before its load is read again

    async def _until_slot_free(self) -> None:
        """Wait for a slot of the engine, as long as responses take.

        Raises:
            ActorFailedError: the engine sampled nothing for `replay.batch_deadline_s`.
        """
        deadline_s = self.config.replay.batch_deadline_s
        self._may_generate.clear()
        with self._idle.waiting(WaitCause.SLOT):
            await self._slot_freed(deadline_s)

    async def _slot_freed(self, deadline_s: float) -> None:
        async with self.waits.on("a free engine slot", cause=WaitCause.SLOT):
            while not self._may_generate.is_set():
                before = self.engine.load().generated_tokens
                try:
                    async with asyncio.timeout(deadline_s):
                        await self._may_generate.wait()
                except TimeoutError:
                    if self.engine.load().generated_tokens == before:
                        raise ActorFailedError(
                            f"{self.actor_id}: the engine sampled nothing for {deadline_s:.0f} s, and no slot is free"
                        ) from None

    async def _first_weights(self) -> None:
        with self._idle.waiting(WaitCause.WEIGHTS):
            async with self.waits.on("weights from learner-0", cause=WaitCause.WEIGHTS):
                while self.engine.policy_version is None:
                    self._may_generate.clear()
                    await self._may_generate.wait()

    async def _reserve(self, num_groups: int) -> GroupsReserved:
        ask = ReserveGroups(num_groups, self.engine.policy_version)
        whom = "a reservation from controller-0" + (f": {self._why_none}" if self._why_none else "")
        async with self.waits.on(whom, cause=WaitCause.RESERVATION):
            while True:
                try:
                    with self._idle.waiting(WaitCause.RESERVATION):
                        reserved = await self.ask_controller(ask)
                    break
                except RefusedError as refusal:
                    log.info("%s: no reservation: %s", self.actor_id, refusal)
                    await asyncio.sleep(self.config.monitoring.heartbeat_s)
        assert isinstance(reserved, GroupsReserved)
        self._why_none = "" if reserved.reservations else reserved.reason
        return reserved

    async def _generate_group(self, reservation: Reservation) -> None:
        group_id = reservation.group_id
        try:
            group = await self._generate(reservation)
            self._may_generate.set()
            source = reservation.prompt.source
            metrics.rollout_groups.labels(source=source).inc()
            for trajectory in group.header.trajectories:
                metrics.rollout_response_tokens.labels(source=source).observe(trajectory.num_tokens)
                metrics.rollout_responses.labels(source=source, reason=trajectory.finish_reason).inc()
            await self._deliver(group)
        except PromptRefusedError as refusal:
            await self._report_refused(group_id, str(refusal))
        finally:
            if self._in_flight.get(group_id) is asyncio.current_task():
                self._handover.forget([trajectory_id_for(group_id, index) for index in range(reservation.group_size)])
                del self._in_flight[group_id]
            self._may_generate.set()

    async def _generate(self, reservation: Reservation) -> Group:
        """Generate a group.

        Raises:
            PromptRefusedError: the tokenizer or the engine cannot take the prompt.
        """
        options = self.config.model.chat_template_options
        try:
            prompt_ids = encode_prompt(self._tokenizer, reservation.prompt, options)
        except PromptRefusedError:
            raise
        except Exception as error:  # a tokenizer may raise anything about a text
            raise PromptRefusedError(f"the tokenizer: {type(error).__name__}: {error}") from error
        held = await self._handover.take_over(reservation.group_id) if reservation.is_reissued else {}
        began_s = monotonic_s()
        with self.tracer.async_span("generate_group", reservation.group_id):
            generations = await self._generate_all(reservation, prompt_ids, held)
        metrics.rollout_group_seconds.observe(monotonic_s() - began_s)
        return group_of(reservation, prompt_ids, generations, engine_id=self.engine.engine_id)

    async def _generate_all(
        self, reservation: Reservation, prompt_ids: Int32, held: Mapping[int, PartialResponse]
    ) -> list[Generation]:
        responses = [
            asyncio.ensure_future(self._generate_one(reservation, index, prompt_ids, held.get(index)))
            for index in range(reservation.group_size)
        ]
        try:
            return await asyncio.gather(*responses)
        except ValueError as error:
            raise PromptRefusedError(str(error)) from error
        finally:
            for response in responses:
                response.cancel()
            await asyncio.gather(*responses, return_exceptions=True)

    async def _generate_one(
        self, reservation: Reservation, index: int, prompt_ids: Int32, held: PartialResponse | None
    ) -> Generation:
        """Generate one response, from the tokens that another rollout handed over, if there are any. If a swap of
        weights aborts it, generation goes on from the tokens it had, unless they are too old to be trained.
        """
        if held is not None and held.header.finish_reason is not None:
            return held.generation
        trajectory_id = trajectory_id_for(reservation.group_id, index)
        prefix = held.generation if held else None
        self._handover.begin(trajectory_id, held.header.num_tokens if held else 0)
        try:
            while True:
                prefix = self._retained(trajectory_id, prefix)
                request = GenerationRequest(
                    request_id=trajectory_id,
                    prompt_ids=prompt_ids,
                    sampling=reservation.sampling,
                    seed=reservation.seed * reservation.group_size + index,
                    prefix=prefix,
                )
                try:
                    generation = await self.engine.generate(request)
                except GenerationAborted as aborted:
                    prefix = aborted.partial
                else:
                    self._handover.ended(trajectory_id, generation)
                    return generation
        finally:
            self._retention.end(trajectory_id)

    def _retained(self, trajectory_id: str, prefix: Generation | None) -> Generation | None:
        """The tokens that a response goes on from: none, and no more are handed over, if they are too old to train."""
        newest = self.engine.policy_version
        assert newest is not None
        oldest = prefix.segments[0].policy_version if prefix and prefix.segments else newest
        if self._retention.goes_on(trajectory_id, oldest, newest) or prefix is None:
            return prefix
        metrics.rollout_purged_tokens.inc(prefix.response_ids.size)
        self._handover.forget([trajectory_id])
        return None

    async def _deliver(self, group: Group) -> None:
        """Send the group to a reward actor, and keep it until replay has committed it."""
        group_id = group.header.group_id
        try:
            await self.deliver(
                Role.REWARD, GroupGenerated(group.header), group.buffers, message_id=group_id,
                what="to judge and replay to commit",
            )  # fmt: skip
        except RefusedError as refusal:
            log.warning("%s: group %s comes back: %s", self.actor_id, group_id, refusal)
            cause, _, detail = refusal.reason.partition(": ")
            await self._hand_back((group_id,), cause, detail)

    # -- leases

    async def _keep_leases(self) -> None:
        """Consumes nothing / produces renewals / waits for a third of a lease / freed by time."""
        while True:
            await asyncio.sleep(self.config.rollout.lease_s / 3)
            held = tuple(self._in_flight)
            if not held:
                continue
            try:
                renewed = (await self.controller.request(RenewLeases(held), timeout_s=REQUEST_TIMEOUT_S)).message
            except PeerTimeoutError:
                continue
            if isinstance(renewed, LeasesRenewed):
                for group_id in renewed.lost:
                    if task := self._in_flight.get(group_id):
                        log.info("%s: lease of %s is lost; dropping it", self.actor_id, group_id)
                        task.cancel()

    async def _let_go(self) -> None:
        """Before this actor leaves, let its groups finish until the deadline, then hand over what there is of the
        others, and return their reservations.
        """
        if self._in_flight:
            left_s = self.stop_deadline_s - LAST_HANDOVER_S - monotonic_s()
            await asyncio.wait(self._in_flight.values(), timeout=max(0.0, left_s))
        if self._in_flight:
            with contextlib.suppress(TimeoutError, ActorFailedError):
                await asyncio.wait_for(self._handover.hand_over(), LAST_HANDOVER_S)
        await finish_or_cancel(self._in_flight.values(), 0.0)
        if self._in_flight:
            await self._hand_back(tuple(self._in_flight), "rollout_left")

    async def _report_refused(self, group_id: str, reason: str) -> None:
        """Have the controller drop a group whose prompt cannot be taken; if it does not hear, the lease runs out, and
        the next rollout reports it.
        """
        metrics.rollout_failed_groups.labels(cause=EndCause.PROMPT_REFUSED).inc()
        log.warning("%s: the prompt of %s is refused: %s", self.actor_id, group_id, reason)
        try:
            await self.controller.request(PromptRefused(group_id, reason), timeout_s=REQUEST_TIMEOUT_S)
        except (PeerTimeoutError, RefusedError) as silence:
            log.warning("%s: %s", self.actor_id, silence)

    async def _hand_back(self, group_ids: tuple[str, ...], cause: str, detail: str = "") -> None:
        metrics.rollout_failed_groups.labels(cause=cause.partition(":")[0]).inc(len(group_ids))
        try:
            await self.controller.request(GroupsFailed(group_ids, cause, detail), timeout_s=2.0)
        except (PeerTimeoutError, ActorFailedError):
            log.warning("%s: %d leases are left to run out", self.actor_id, len(group_ids))

"""Requests of rollouts for work: each waits until work can be granted, for a moment at most.

    rollout ──ReserveGroups──▶ answer ──its fair share at once──────────────────▶ GroupsReserved
                                 └─▶ [waiting] ──run: what may be granted, divided──▶ GroupsReserved

Owns: the requests that wait, and when each is granted what. Does not own how much is granted (`AdmissionLimiter`), how
it is divided (`core.work.fair_shares`), or which prompts (`Dispatcher`).
Invariants: every request is answered within `LONG_POLL_S`: with work, or with the reason why there is none. While
nothing can be granted, requests that wait cost nothing, however many they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.run_life import RunLife
from ring_async.clock import monotonic_s
from ring_async.core.roster import Role
from ring_async.core.work.admission import Grant
from ring_async.core.work.fair_shares import divide, fair_share
from ring_async.core.work.leases import Returned
from ring_async.errors import CodecError, StorageError
from ring_async.telemetry import metrics
from ring_async.transport.base import Delivery
from ring_async.transport.messages.work import GroupsReserved, ReserveGroups
from ring_async.types import Reservation

log = logging.getLogger(__name__)

LONG_POLL_S = 1.0
"""How long a question for work is held before it is answered with the reason why there is none."""
LEFTOVER_S = 0.5
"""A rollout that has waited so long is given more than its fair share, if others leave it: they had time to ask."""


@dataclass(slots=True)
class _Waiting:
    delivery: Delivery
    ask: ReserveGroups
    since_s: float
    is_answered: asyncio.Event = field(default_factory=asyncio.Event)


class WorkRequests:
    """Answers `ReserveGroups`. `on_given_up` hears of groups that were tried too often.

    Example:
        8 groups may be granted, and 4 rollouts run, none with work. The first asks for 8 and is given 2 at once, its
        fair share; so are the others. A rollout that asks for more waits. If nobody else wants what is left, `run`
        gives it to that rollout after `LEFTOVER_S`.
    """

    def __init__(
        self, dispatcher: Dispatcher, fleet: FleetShell, life: RunLife, on_given_up: Callable[[list[Returned]], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._on_given_up = on_given_up
        self._fleet = fleet
        self._life = life
        self._waiting: dict[str, _Waiting] = {}
        """By rollout, in the order in which they began to wait."""
        self._is_due = asyncio.Event()
        self._reason = ""
        """Why none of those that wait was granted anything when `run` last looked."""
        self._is_full = False

    def look_again(self) -> None:
        """Have the waiting requests checked again: work may be granted now."""
        self._is_due.set()

    async def answer(self, delivery: Delivery, ask: ReserveGroups) -> None:
        """Consumes one request / produces reservations / waits for admission / freed by `run`, or by time."""
        await self._dispatcher.prompts.make_ahead(ask.num_groups)
        waiting = _Waiting(delivery, ask, monotonic_s())
        if (before := self._waiting.pop(delivery.sender, None)) is not None:
            self._reply(before, (), f"{delivery.sender} asked again")
        self._waiting[delivery.sender] = waiting
        try:
            grant = self._decide(waiting)
            metrics.controller_admission_open.set(grant.num_groups > 0)
            self._reason = grant.reason
            if grant.num_groups:
                self._grant([waiting], grant.num_groups)
            if not waiting.is_answered.is_set():
                async with asyncio.timeout(LONG_POLL_S):
                    await waiting.is_answered.wait()
        except TimeoutError:
            self._reply(waiting, (), self._decide(waiting).reason or self._reason)
        finally:
            if self._waiting.get(delivery.sender) is waiting:
                del self._waiting[delivery.sender]

    async def run(self) -> None:
        """Consumes changes of admission / produces reservations / waits for the next / freed by `look_again`."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            if not self._waiting:
                continue
            if num_grantable := self._num_grantable():
                num_wanted = sum(one.ask.num_groups for one in self._waiting.values())
                await self._dispatcher.prompts.make_ahead(min(num_grantable, num_wanted))
                num_grantable = self._num_grantable()  # others were given work meanwhile
                self._grant([one for one in self._waiting.values() if self._decide(one).num_groups], num_grantable)

    # -- parts

    def _num_grantable(self) -> int:
        """How many groups may be granted to rollouts whose weights are new enough."""
        grant = self._dispatcher.grantable(None)
        metrics.controller_admission_open.set(grant.num_groups > 0)
        if not grant.num_groups:
            self._reason = grant.reason
        return grant.num_groups

    def _grant(self, waiting: list[_Waiting], num_grantable: int) -> None:
        """Divide what may be granted among requests that wait, and answer those that get something."""
        leases, now_s = self._dispatcher.leases, monotonic_s()
        share = fair_share(leases.num_open, num_grantable, self._fleet.wanted.num_wanted(Role.ROLLOUT))
        held = {one.delivery.sender: leases.num_held(one.delivery.sender) for one in waiting}
        wanted = {}
        for one in waiting:
            sender, number = one.delivery.sender, one.ask.num_groups
            if now_s - one.since_s < LEFTOVER_S:
                number = min(number, share - held[sender])
            wanted[sender] = number
        try:
            issued = self._dispatcher.issue(divide(num_grantable, wanted, held))
        except StorageError as full:
            self._reason = self._say(str(full))
            return
        self._is_full = False
        for one in waiting:
            if reservations := issued.get(one.delivery.sender):
                self._reply(one, tuple(reservations), "")
        self._reason = f"others are given the next groups; each of the rollouts has a fair share of {share}"

    def _reply(self, waiting: _Waiting, reservations: tuple[Reservation, ...], reason: str) -> None:
        if waiting.is_answered.is_set():
            return
        waiting.is_answered.set()
        delivery = waiting.delivery
        if self._waiting.get(delivery.sender) is waiting:
            del self._waiting[delivery.sender]
        try:
            delivery.reply(GroupsReserved(reservations, reason))
        except CodecError as error:  # prompts that no message can carry; the channel has refused the request
            group_ids = [reservation.group_id for reservation in reservations]
            self._on_given_up(
                self._dispatcher.give_back(group_ids, "prompt_too_large", owner=delivery.sender, detail=str(error))
            )

    def _say(self, trouble: str) -> str:
        """Log once that nothing can be granted; granting goes on once there is room on the disk."""
        if not self._is_full:
            self._is_full = True
            log.error("no reservation: %s", trouble)
        return trouble

    def _decide(self, waiting: _Waiting) -> Grant:
        sender = waiting.delivery.sender
        if self._life.is_stopping or self._life.is_paused:
            return Grant(0, "the run is paused" if self._life.is_paused else "the run is ending")
        if sender not in self._fleet.members or self._fleet.wanted.is_leaving(sender):
            return Grant(0, "not registered, or leaving")
        return self._dispatcher.grantable(waiting.ask.policy_version)

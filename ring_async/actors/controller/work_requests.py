"""Requests of rollouts for work: each waits until work can be granted, for a moment at most.

Owns: the requests that wait. Does not own how much is granted (`AdmissionLimiter`), or which prompts
(`Dispatcher`).
Invariant: every request is answered within `LONG_POLL_S`: with work, or with the reason why there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.run_life import RunLife
from ring_async.clock import monotonic_s
from ring_async.core.work.admission import Grant
from ring_async.core.work.leases import Returned
from ring_async.errors import CodecError, StorageError
from ring_async.telemetry import metrics
from ring_async.transport.base import Delivery
from ring_async.transport.messages.work import GroupsReserved, ReserveGroups

log = logging.getLogger(__name__)

LONG_POLL_S = 1.0
"""How long a question for work is held before it is answered with the reason why there is none."""


class WorkRequests:
    """Answers `ReserveGroups`. `on_given_up` hears of groups that were tried too often."""

    def __init__(
        self, dispatcher: Dispatcher, fleet: FleetShell, life: RunLife, on_given_up: Callable[[list[Returned]], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._on_given_up = on_given_up
        self._fleet = fleet
        self._life = life
        self._admission_moved = asyncio.Condition()

    async def look_again(self) -> None:
        """Have the waiting requests check again whether work can be granted."""
        async with self._admission_moved:
            self._admission_moved.notify_all()

    async def answer(self, delivery: Delivery, ask: ReserveGroups) -> None:
        """Consumes one request / produces reservations / waits for admission / freed by `look_again`, or by time."""
        deadline_s = monotonic_s() + LONG_POLL_S
        while True:
            grant = self._grant(delivery.sender, ask)
            remaining_s = deadline_s - monotonic_s()
            if grant.num_groups or remaining_s <= 0:
                break
            async with self._admission_moved:
                try:  # no `wait_for`: on Python 3.11, one that is cancelled as it times out keeps the lock for ever
                    async with asyncio.timeout(remaining_s):
                        await self._admission_moved.wait()
                except TimeoutError:
                    break
        try:
            reservations = self._dispatcher.issue(delivery.sender, min(grant.num_groups, ask.num_groups))
        except StorageError as full:  # grant nothing and give the reason; granting goes on once there is space
            log.error("no reservation: %s", full)
            delivery.reply(GroupsReserved((), str(full)))
            return
        try:
            delivery.reply(GroupsReserved(reservations, grant.reason))
        except CodecError as error:  # prompts that no message can carry; the channel has refused the request
            group_ids = [reservation.group_id for reservation in reservations]
            self._on_given_up(
                self._dispatcher.give_back(group_ids, "prompt_too_large", owner=delivery.sender, detail=str(error))
            )

    def _grant(self, sender: str, ask: ReserveGroups) -> Grant:
        grant = self._decide(sender, ask)
        metrics.controller_admission_open.set(grant.num_groups > 0)
        return grant

    def _decide(self, sender: str, ask: ReserveGroups) -> Grant:
        if self._life.is_stopping or self._life.is_paused:
            return Grant(0, "the run is paused" if self._life.is_paused else "the run is ending")
        if sender not in self._fleet.members or self._fleet.wanted.is_leaving(sender):
            return Grant(0, "not registered, or leaving")
        return self._dispatcher.grantable(ask.policy_version)

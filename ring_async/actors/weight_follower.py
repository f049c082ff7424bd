"""The weight follower: it stages the newest wanted version of the weights and swaps it into one engine.

    controller ──UseWeights──▶ hear_of ──▶ [newest wanted] ──take_up──▶ stage ──▶ swap into the engine

Owns: which version is next. Does not own when its actor has time for a swap, nor how a version travels
(`WeightReceiver`).
Invariants: versions only grow; a version that a newer one overtakes is skipped; staged weights are released as soon as
the engine has them, so that an engine that copies them pays for no second model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ring_async.clock import monotonic_s
from ring_async.engines.base import OnUpdate, RolloutEngine
from ring_async.errors import WeightsError
from ring_async.telemetry.trace import Tracer
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import WeightReceiver
from ring_async.types import PolicyVersion

log = logging.getLogger(__name__)

STAGE_RETRY_S = 0.2
"""Pause before another version is tried where one could not be staged."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A version that the engine samples from now: the cost of staging it, and how long generation stood still."""

    version: PolicyVersion
    stage_s: float
    pause_s: float


class WeightFollower:
    """Keeps one engine at published versions.

        follower.hear_of(announcement)             # of version 7
        await follower.until_due()
        await follower.take_up()                   # TakenUp(version 7, …): the engine samples from it

    Args:
        engine: whose weights are swapped.
        receiver: fetches published weights; closed together with the follower.
        on_update: what a swap does to requests under way; see `rollout.on_update`.
        tracer: records when versions are staged.
        is_wanted: whether to take a version up; called once for each newer version. By default all are wanted.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        receiver: WeightReceiver,
        on_update: OnUpdate,
        tracer: Tracer,
        *,
        is_wanted: Callable[[PolicyVersion], bool] = lambda version: True,
    ) -> None:
        self._engine = engine
        self.receiver = receiver
        self._on_update = on_update
        self._tracer = tracer
        self._is_wanted = is_wanted
        self._newest: WeightsAnnouncement | None = None
        self._due: WeightsAnnouncement | None = None
        self._awake = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether a version waits to be taken up."""
        return self._due is not None

    @property
    def lag(self) -> int:
        """How many versions the engine is behind the newest announced; 0 before the first."""
        if self._newest is None:
            return 0
        held = self._engine.policy_version
        return max(0, self._newest.policy_version.number - (held.number if held else -1))

    def hear_of(self, announcement: WeightsAnnouncement) -> None:
        """Note that a version was published; a version that is not newer changes nothing."""
        if self._newest is not None and announcement.policy_version <= self._newest.policy_version:
            return
        self._newest = announcement
        if self._is_wanted(announcement.policy_version):
            self._due = announcement
            self._awake.set()

    def wake(self) -> None:
        """End calls of `until_due`, whether or not a version is due."""
        self._awake.set()

    async def until_due(self) -> None:
        """Wait until a version is due or `wake` is called."""
        while not (self.is_due or self._awake.is_set()):
            await self._awake.wait()
        self._awake.clear()

    async def take_up(self) -> TakenUp | None:
        """Stage the version that is due, and swap it into the engine.

        Returns:
            The version and its costs; or None, after a pause, if it could not be staged because it was retired or its
            learner died. Then the newest version is due, or soon another one is.
        """
        announcement, self._due = self._due, None
        assert announcement is not None, "until_due comes first"
        version, began_s = announcement.policy_version, monotonic_s()
        try:
            with self._tracer.span("stage_weights"):
                staged = await asyncio.to_thread(self.receiver.stage, announcement)
        except WeightsError as error:
            log.warning("%s: version %s could not be staged: %s", self._engine.engine_id, version, error)
            await asyncio.sleep(STAGE_RETRY_S)
            self._due = self._due or self._newest
            return None
        stage_s = monotonic_s() - began_s
        with staged:
            report = await self._engine.swap_weights(version, staged.tensors, self._on_update)
        return TakenUp(version, stage_s, report.pause_s)

    def close(self) -> None:
        """Close the receiver."""
        self.receiver.close()

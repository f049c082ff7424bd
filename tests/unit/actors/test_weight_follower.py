"""Which version an engine is given next, and what happens to the weights before it."""

from __future__ import annotations

import asyncio

import pytest

from ring_async.actors.weight_follower import STAGE_RETRY_S, WeightFollower
from ring_async.clock import monotonic_s
from ring_async.errors import WeightsError
from ring_async.telemetry.trace import Tracer
from ring_async.testing.scripted_engine import ScriptedEngine
from ring_async.testing.scripted_training import NamedWeights
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights
from ring_async.types import PolicyVersion


def version(number: int) -> WeightsAnnouncement:
    return WeightsAnnouncement(PolicyVersion(0, number), "named", {})


class Receiver(NamedWeights):
    """Refuses to stage what is retired; notes what was released."""

    def __init__(self, *retired: int) -> None:
        super().__init__()
        self.retired = retired

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        if announcement.policy_version.number in self.retired:
            raise WeightsError("retired")
        return super().stage(announcement)


def follower_of(engine: ScriptedEngine, receiver: NamedWeights, **how: object) -> WeightFollower:
    return WeightFollower(engine, receiver, "keep", Tracer(None, "rollout-0"), **how)


async def taken_up(follower: WeightFollower) -> int | None:
    await follower.until_due()
    now = await follower.take_up()
    return now.version.number if now else None


def test_the_newest_version_is_taken_up_and_overtaken_ones_are_skipped():
    async def main() -> None:
        engine = ScriptedEngine("rollout-0")
        follower = follower_of(engine, Receiver())
        follower.hear_of(version(1))
        follower.hear_of(version(3))
        follower.hear_of(version(2))
        assert await taken_up(follower) == 3
        assert engine.policy_version == PolicyVersion(0, 3)
        assert not follower.is_due
        follower.hear_of(version(3))
        assert not follower.is_due, "heard of before"
        follower.hear_of(version(4))
        assert await taken_up(follower) == 4

    run_virtual(main())


def test_a_version_that_cannot_be_staged_gives_way_to_the_newest():
    async def main() -> None:
        follower = follower_of(ScriptedEngine("rollout-0"), Receiver(1))
        follower.hear_of(version(1))
        asyncio.get_running_loop().call_later(STAGE_RETRY_S / 2, follower.hear_of, version(2))
        assert await taken_up(follower) is None
        assert monotonic_s() == pytest.approx(STAGE_RETRY_S)
        assert await taken_up(follower) == 2

    run_virtual(main())


def test_an_unwanted_version_is_tried_once_the_wanted_one_is_gone():
    async def main() -> None:
        asked: list[int] = []

        def is_wanted(candidate: PolicyVersion) -> bool:
            asked.append(candidate.number)
            return candidate.number % 2 == 0

        follower = follower_of(ScriptedEngine("evaluator-0"), Receiver(2), is_wanted=is_wanted)
        for number in (1, 2, 3, 3):
            follower.hear_of(version(number))
        assert asked == [1, 2, 3]
        assert await taken_up(follower) is None
        assert await taken_up(follower) == 3

    run_virtual(main())


def test_a_wait_can_be_ended_without_a_version():
    async def main() -> None:
        follower = follower_of(ScriptedEngine("evaluator-0"), Receiver())
        asyncio.get_running_loop().call_later(5.0, follower.wake)
        await follower.until_due()
        assert monotonic_s() == pytest.approx(5.0)
        assert not follower.is_due

    run_virtual(main())

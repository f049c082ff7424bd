"""The controller dies and is started again while its fleet goes on: nothing is issued, numbered or announced twice."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from pathlib import Path

import pytest

from one_process_run import EvenTotal, events, lines, make_small_fleet, run, until_version
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID
from ring_async.records.status import RunStatus
from ring_async.storage.audit import audit
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.virtual_clock import VirtualClockLoop
from ring_async.transport.memory import MemoryTransport
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import Response

PRODUCTIVE_S = 5.0
"""A restart of the controller is noticed with the next heartbeat; by then the next version must not be far."""


make_fleet = functools.partial(make_small_fleet, stop__policy_versions=12, checkpoint__every_versions=10)


async def seconds_to_version(fleet: OneProcessFleet, number: int) -> float:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await until_version(fleet, number)
    return loop.time() - began_s


@pytest.mark.parametrize("at", [3, 7])
def test_the_fleet_outlives_its_controller(tmp_path: Path, at: int):
    """Rollouts keep their groups, the learner its lineage: nobody dies, and nothing is generated again."""

    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, at)
        fleet.kill(CONTROLLER_ID)
        assert await seconds_to_version(fleet, at + 1) < PRODUCTIVE_S

    fleet = make_fleet(tmp_path, rollout__num=3, token_s=0.2, train_s=0.5)
    assert run(fleet, kill, limit_s=450.0) == ""
    assert not events(fleet, "actor_lost")
    steps = lines(fleet.run_dir.metrics)
    assert [(step["incarnation"], step["policy_version"]) for step in steps] == [(0, n) for n in range(1, 13)]
    assert fleet.controller.status().ledger.reissued == 0
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


def test_a_restarted_controller_knows_the_version_and_who_holds_what(tmp_path: Path):
    seen: list[RunStatus] = []

    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 7)
        await asyncio.sleep(0.3)
        seen.append(fleet.controller.status())
        fleet.kill(CONTROLLER_ID)
        await asyncio.sleep(3.0)
        seen.append(fleet.controller.status())

    fleet = make_fleet(tmp_path, rollout__num=2, token_s=1.0, train_s=0.5)
    assert run(fleet, kill, limit_s=2000.0) == ""
    before, after = seen
    assert after.policy_version >= before.policy_version >= 7, "not that of the newest checkpoint, 0"
    assert before.reservations_open > 0
    assert after.ledger.reissued == 0


@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("victim", ["rollout-0", LEARNER_ID, "replay-0"])
def test_an_actor_that_dies_with_the_controller_is_replaced_and_gets_what_it_needs(
    tmp_path: Path, mode: str, victim: str
):
    """A new rollout gets the newest weights: the controller has none until the learner says what it published."""

    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 4)
        await asyncio.sleep(0.3)
        fleet.kill(CONTROLLER_ID)
        fleet.kill(victim)
        assert await seconds_to_version(fleet, 5) < 2 * PRODUCTIVE_S

    fleet = make_fleet(
        tmp_path, mode=mode, budget__token_budget=256, replay__max_staleness=1, stop__policy_versions=8, token_s=0.2
    )
    assert run(fleet, kill, limit_s=2000.0) == ""
    assert {event["actor"] for event in events(fleet, "actor_lost")} == {victim}
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


def test_the_controller_dies_again_and_again(tmp_path: Path):
    num_kills: list[int] = []

    async def kill(fleet: OneProcessFleet) -> None:
        for number in range(1, 20):
            await until_version(fleet, number)
            await asyncio.sleep(0.05 * number)
            if fleet.is_up(CONTROLLER_ID):
                num_kills.append(number)
                fleet.kill(CONTROLLER_ID)

    fleet = make_fleet(tmp_path, rollout__num=3, stop__policy_versions=24, token_s=0.1, train_s=0.3)
    assert run(fleet, kill, limit_s=2000.0) == ""
    assert not events(fleet, "actor_lost")
    assert len(events(fleet, "controller_started")) == 1 + len(num_kills) > 10
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


class Recorded(EvenTotal):
    """Takes 3 s for a verdict, and writes down what it judges."""

    def __init__(self, path: str) -> None:
        super().__init__(delay_s=3.0)
        self._path = Path(path)

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        with self._path.open("a") as judged:
            judged.write(f"{prompt.prompt_id}\n")
        return await super().score(prompt, response)


def test_groups_in_the_hands_of_a_reward_actor_are_not_sent_elsewhere(tmp_path: Path):
    """The first members that register with the new controller must not think that the others have left."""
    judged = tmp_path / "judged.txt"

    async def kill(fleet: OneProcessFleet) -> None:
        for number in (2, 4):
            await until_version(fleet, number)
            await asyncio.sleep(1.0)
            fleet.kill(CONTROLLER_ID)

    recorded = {"exact": {"use": f"{__file__}:Recorded", "options": {"path": str(judged)}}}
    fleet = make_fleet(tmp_path, rollout__num=3, reward__num=2, stop__policy_versions=8, verifiers=recorded)
    assert run(fleet, kill, limit_s=2000.0) == ""
    assert set(Counter(judged.read_text().splitlines()).values()) == {4}, "each response of a group is judged once"


class OverTcp(OneProcessFleet):
    """The controller's address is a port: free to choose at first, and the next controller's own to ask for."""

    def _transport(self, actor_id: str) -> MemoryTransport:
        if actor_id != CONTROLLER_ID:
            return super()._transport(actor_id)
        return MemoryTransport(f"{actor_id}:{40_000 + self.num_controllers}", self.hub)


def test_a_controller_comes_back_at_the_address_it_had(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 5)
        address = fleet.controller.endpoint
        fleet.kill(CONTROLLER_ID)
        await asyncio.sleep(20.0)
        assert fleet.controller.endpoint == address == "memory://controller-0:40001/control"

    fleet = make_fleet(tmp_path, OverTcp, stop__policy_versions=40, token_s=0.2, train_s=0.5)
    assert run(fleet, kill, limit_s=900.0) == ""
    assert not events(fleet, "actor_lost")


def test_a_pause_outlives_the_controller(tmp_path: Path):
    reached: list[int] = []

    async def pause(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        await fleet.controller.pause()
        await asyncio.sleep(30.0)
        fleet.kill(CONTROLLER_ID)
        for _ in range(2):
            await asyncio.sleep(30.0)
            reached.append(fleet.controller.status().policy_version)
        assert fleet.controller.status().state == "paused"
        await fleet.controller.resume()

    assert run(make_fleet(tmp_path, token_s=0.2, train_s=0.5), pause) == ""
    assert reached[0] == reached[1] < 12


def test_a_host_that_stood_still_has_lost_nobody(tmp_path: Path):
    """After 100 s in which no process ran, the controller's tick comes before the heartbeats that wait unread."""

    async def stop(fleet: OneProcessFleet) -> None:
        for number in (2, 4, 6):
            await until_version(fleet, number)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualClockLoop)
            loop.jump(100.0)

    fleet = make_fleet(tmp_path, rollout__num=3, rollout__lease_s=5.0, token_s=0.2, train_s=0.5)
    assert run(fleet, stop) == ""
    assert not events(fleet, "actor_lost")
    assert fleet.controller.status().ledger.reissued == 0

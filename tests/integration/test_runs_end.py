"""Runs end: once, with their cause, whoever dies meanwhile; and a run that only waits goes on."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from one_process_run import events, lines, make_small_fleet, run, until_version
from ring_async.actors.controller.run_life import NOTE_TIME_S
from ring_async.core.roster import CONTROLLER_ID, LEARNER_ID
from ring_async.storage.audit import audit
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.transport.messages.fleet import ActorExit, ActorWaiting
from ring_async.types import Prompt
from ring_async.verifiers.base import Response

DEADLINE_S = 20.0
"""`replay.batch_deadline_s` of these runs, and more than their actors need for a start."""


class Flat(ScriptedVerifier):
    """All rewards are equal until `signal_from_s` of the loop's clock."""

    def __init__(self, signal_from_s: float) -> None:
        def reward(prompt: Prompt, response: Response) -> float:
            has_signal = asyncio.get_running_loop().time() >= signal_from_s
            return float(has_signal and sum(map(int, response.text.split())) % 2)

        super().__init__(reward, delay_s=0.02)


make_fleet = functools.partial(
    make_small_fleet, replay__batch_deadline_s=DEADLINE_S, placement__start_timeout_s=DEADLINE_S
)


def outcome(fleet: OneProcessFleet) -> dict[str, Any]:
    return json.loads(fleet.run_dir.outcome.read_text())


# -- an end is durable


def test_a_controller_killed_while_the_run_ends_goes_on_ending_it(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        while not events(fleet, "stopping"):
            await asyncio.sleep(0.01)
        fleet.kill(CONTROLLER_ID)

    fleet = make_fleet(tmp_path)
    assert run(fleet, kill, limit_s=120.0) == ""
    assert outcome(fleet)["reason"] == "all policy versions trained"
    assert lines(fleet.run_dir.metrics)[-1]["policy_version"] == 6


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.5, 2.0])
def test_a_person_who_says_down_says_it_once(tmp_path: Path, after_s: float):
    """The controller dies at some moment of the end: the next one writes the checkpoint and lets everybody leave."""

    async def end(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 4)
        fleet.controller.shut_down("ring-async down", 20.0)
        await asyncio.sleep(after_s)
        if fleet.is_up(CONTROLLER_ID):
            fleet.kill(CONTROLLER_ID)

    fleet = make_fleet(tmp_path, stop__policy_versions=1000, train_s=0.5, checkpoint__every_versions=500)
    assert run(fleet, end, limit_s=120.0) == ""
    assert outcome(fleet)["reason"] == "ring-async down"
    assert outcome(fleet)["killed"] == []
    last = lines(fleet.run_dir.metrics)[-1]["policy_version"]
    assert Path(outcome(fleet)["checkpoint"]).name.endswith(str(last)), "the checkpoint is that of the last version"
    assert audit(fleet.run_dir.path).is_clean


def test_a_failure_outlives_the_controller(tmp_path: Path):
    async def fail(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        fleet.controller._life.fail("learner-0: DivergedError: NaN")
        await asyncio.sleep(0.05)
        fleet.kill(CONTROLLER_ID)

    fleet = make_fleet(tmp_path, stop__policy_versions=1000, train_s=0.5)
    assert run(fleet, fail, limit_s=120.0) == "learner-0: DivergedError: NaN"
    assert outcome(fleet)["failure"] == "learner-0: DivergedError: NaN"


def test_a_finished_run_that_is_resumed_ends_at_once(tmp_path: Path):
    assert run(make_fleet(tmp_path)) == ""
    again = make_fleet(tmp_path, is_resumed=True)
    assert run(again, limit_s=5.0) == ""
    assert outcome(again)["reason"] == "all policy versions trained"
    assert outcome(again)["policy_version"] == 6
    assert not again.train_engines, "nothing was started for it"


def test_a_finished_run_that_is_resumed_with_more_versions_goes_on(tmp_path: Path):
    assert run(make_fleet(tmp_path)) == ""
    again = make_fleet(tmp_path, is_resumed=True, stop__policy_versions=8)
    assert run(again, limit_s=120.0) == ""
    assert [batch.plan.plan_number for batch in again.train_engines[0].batches] == [7, 8]


def test_the_time_trained_outlives_the_controller(tmp_path: Path):
    """`stop.wall_s` 30: a controller that dies after 25 s does not start the clock again."""
    ended_s: list[float] = []

    async def kill(fleet: OneProcessFleet) -> None:
        await asyncio.sleep(25.0)
        fleet.kill(CONTROLLER_ID)
        await asyncio.sleep(1.0)
        while not events(fleet, "stopping"):
            await asyncio.sleep(0.1)
        ended_s.append(asyncio.get_running_loop().time())

    fleet = make_fleet(tmp_path, stop__policy_versions=10_000, stop__wall_s=30.0, token_s=0.2, train_s=1.0)
    assert run(fleet, kill, limit_s=100.0) == ""
    assert 30.0 < ended_s[0] < 30.0 + 1.5 * NOTE_TIME_S


# -- a run without progress ends with its cause


def test_a_run_without_signal_ends_and_says_so(tmp_path: Path):
    flat = {"exact": {"use": f"{__file__}:Flat", "options": {"signal_from_s": 1e9}}}
    fleet = make_fleet(tmp_path, verifiers=flat, token_s=0.2, train_s=0.5)
    failure = run(fleet, limit_s=2 * DEADLINE_S)
    assert "replay.batch_deadline_s" in failure
    assert "no signal: all rewards equal" in failure
    assert "batch 1 from replay-0" in failure
    assert not events(fleet, "actor_lost")


def test_a_run_whose_signal_comes_before_the_deadline_goes_on(tmp_path: Path):
    flat = {"exact": {"use": f"{__file__}:Flat", "options": {"signal_from_s": 0.8 * DEADLINE_S}}}
    fleet = make_fleet(tmp_path, verifiers=flat, token_s=0.2, train_s=0.5)
    assert run(fleet, limit_s=1000.0) == ""
    assert not events(fleet, "actor_lost")


# -- waiting is not dying


@pytest.mark.parametrize(("mode", "max_staleness", "after_s"), [("sync", 4, 0.1), ("async", 1, 0.5), ("async", 1, 1.5)])
def test_a_pause_may_last(tmp_path: Path, mode: str, max_staleness: int, after_s: float):
    async def pause(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        await asyncio.sleep(after_s)
        await fleet.controller.pause()
        await asyncio.sleep(3 * DEADLINE_S)
        assert fleet.controller.status().state == "paused"
        await fleet.controller.resume()

    fleet = make_fleet(
        tmp_path, mode=mode, replay__max_staleness=max_staleness, budget__token_budget=512, token_s=0.2,
        checkpoint__every_versions=100,
    )  # fmt: skip
    assert run(fleet, pause, limit_s=10 * DEADLINE_S) == ""
    assert not events(fleet, "actor_lost")


class OnHosts(OneProcessFleet):
    """Actors whose host is gone have no place until it comes back."""

    gone: tuple[str, ...] = ()

    def waiting(self) -> tuple[ActorWaiting, ...]:
        incarnations = self.controller._fleet.wanted.incarnations()
        return tuple(ActorWaiting(one, incarnations[one], "a host of the cluster") for one in self.gone)

    def _collect_exits(self) -> None:
        super()._collect_exits()
        self.exits = [
            ActorExit(one.actor_id, one.incarnation, "its host is gone", is_host_lost=one.actor_id in self.gone)
            for one in self.exits
        ]


@pytest.mark.parametrize("actor_id", ["replay-0", "reward-0", "rollout-0", LEARNER_ID])
def test_a_run_waits_for_a_host_that_is_away_longer_than_any_deadline(tmp_path: Path, actor_id: str):
    async def take_host(fleet: OneProcessFleet) -> None:
        assert isinstance(fleet, OnHosts)
        await until_version(fleet, 3)
        fleet.gone = (actor_id,)
        fleet.kill(actor_id)
        await asyncio.sleep(3 * DEADLINE_S)
        fleet.gone = ()

    fleet = make_fleet(tmp_path, OnHosts, stop__policy_versions=8, token_s=0.2, train_s=0.5)
    assert run(fleet, take_host, limit_s=10 * DEADLINE_S) == ""
    assert {event["actor"] for event in events(fleet, "actor_lost")} == {actor_id}
    assert audit(fleet.run_dir.path).is_clean

"""The evaluator beside a fleet in training, under a virtual clock: it measures, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from one_process_run import EVEN_TOTAL, events, lines, run
from ring_async.errors import WeightsError
from ring_async.monitoring.report.summary import summary
from ring_async.storage.audit import audit
from ring_async.telemetry import metrics
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights

NUM_VERSIONS = 12
SAMPLES = 3
PROBLEMS = 6


def make_fleet(
    runs: Path, name: str, *, every: int = 3, num_versions: int = NUM_VERSIONS, **overrides: Any
) -> OneProcessFleet:
    config = make_config(
        run__name=name,
        stop={"policy_versions": num_versions},
        rollout__group_size=4,
        verifiers={"exact": {"use": EVEN_TOTAL}},
        sources={"sums": {"verifier": "exact"}, "words": {"verifier": "exact"}, "unused": {"verifier": "exact"}},
        mixture={"sums": 1.0, "words": 1.0, "unused": 0.0},
        replay__map_size_bytes=16 << 20,
        evaluation={"every_versions": every, "num_problems": PROBLEMS, "num_samples": SAMPLES},
        **overrides,
    )
    return OneProcessFleet(config, runs)


async def until(is_so: Callable[[], Any]) -> None:
    while not is_so():
        await asyncio.sleep(0.02)


def paced(fleet: OneProcessFleet, token_s: float) -> list[tuple[str, int]]:
    """Let the evaluator's engine take this time a token; returns the list of its answers' ids and versions."""
    answers: list[tuple[str, int]] = []
    make_engine = fleet._new_engine

    def new_engine(actor_id: str) -> Any:
        engine = make_engine(actor_id)
        if not actor_id.startswith("evaluator"):
            return engine
        engine._token_s = token_s
        generate = engine.generate

        async def noted(request: Any) -> Any:
            generation = await generate(request)
            (segment,) = generation.segments
            answers.append((request.request_id, segment.policy_version.number))
            return generation

        engine.generate = noted
        return engine

    fleet._new_engine = new_engine
    return answers


def test_every_nth_version_is_evaluated_by_domain_and_seen_everywhere(tmp_path: Path):
    fleet = make_fleet(tmp_path, "evaluated")
    paced(fleet, token_s=0.001)
    assert run(fleet) == ""
    evaluated = lines(fleet.run_dir.evaluations)
    assert [line["policy_version"] for line in evaluated] == [0, 3, 6, 9, 12]
    last = evaluated[-1]
    assert (last["num_problems"], last["k"], last["num_failed"]) == (PROBLEMS, SAMPLES, 0)
    assert set(last["by_source"]) == {"sums", "words"}, "a source of weight 0 is not evaluated"
    assert all(0 < figures["avg_at_k"] < 1 for figures in last["by_source"].values())
    assert last["avg_at_k"] == pytest.approx(sum(figures["avg_at_k"] for figures in last["by_source"].values()) / 2)
    assert [event["policy_version"] for event in events(fleet, "evaluated")] == [
        line["policy_version"] for line in evaluated
    ]
    assert fleet.controller.status().plain()["last_evaluation"] == last
    assert summary(fleet.run_dir.path)["evaluations"] == evaluated
    shown = metrics.values()
    assert shown["ring_evaluator_policy_version"] == last["policy_version"]
    assert shown["ring_evaluator_solved_ratio{sampling=sampled,source=all}"] == last["avg_at_k"]


def test_training_is_the_same_with_and_without_it(tmp_path: Path):
    without, beside = make_fleet(tmp_path, "without", every=0), make_fleet(tmp_path, "beside", every=1)
    paced(beside, token_s=0.02)
    assert run(without) == run(beside) == ""
    assert "evaluator-0" not in without.actors
    assert not without.run_dir.evaluations.exists()
    assert len(lines(beside.run_dir.evaluations)) >= 2
    keys = ("policy_version", "loss_tokens", "staleness_max", "reward_mean")
    pictures = [[[step[key] for key in keys] for step in lines(f.run_dir.metrics)] for f in (without, beside)]
    assert pictures[0] == pictures[1]
    trained = [[batch.plan.sequences for batch in fleet.train_engines[0].batches] for fleet in (without, beside)]
    assert trained[0] == trained[1]


def test_an_evaluation_is_of_one_version_whatever_comes_meanwhile(tmp_path: Path):
    fleet = make_fleet(tmp_path, "slow", every=1, num_versions=30)
    answers = paced(fleet, token_s=0.04)
    assert run(fleet) == ""
    evaluated = [line["policy_version"] for line in lines(fleet.run_dir.evaluations)]
    assert evaluated[-1] == 30, "a trained run waits for the last version"
    assert 2 <= len(evaluated) < 30, "it was meant to be too slow for every version"
    assert evaluated == sorted(set(evaluated))
    whole = PROBLEMS * (1 + SAMPLES)
    for place, number in enumerate(evaluated):
        part = answers[place * whole : (place + 1) * whole]
        assert {version for _, version in part} == {number}
        assert len({request_id for request_id, _ in part}) == whole


def test_a_run_that_is_ended_does_not_wait_for_it(tmp_path: Path):
    async def end(fleet: OneProcessFleet) -> None:
        await until(lambda: fleet.controller.status().plain()["policy_version"] >= 3)
        fleet.controller.shut_down("test", deadline_s=8.0)

    fleet = make_fleet(tmp_path, "ended", every=1, num_versions=1000)
    paced(fleet, token_s=30.0)
    assert run(fleet, end) == ""
    assert [event["killed"] for event in events(fleet, "stopped")] == [[]]
    assert lines(fleet.run_dir.evaluations) == []


def test_its_death_disturbs_nobody_and_its_successor_goes_on(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        await until(lambda: len(lines(fleet.run_dir.evaluations)) == 1)
        await until(lambda: fleet.actors["evaluator-0"].counters().answered == 1)
        fleet.kill("evaluator-0")

    fleet = make_fleet(tmp_path, "killed", every=2, num_versions=40)
    paced(fleet, token_s=0.02)
    assert run(fleet, kill) == ""
    assert [event["actor"] for event in events(fleet, "actor_lost")] == ["evaluator-0"]
    evaluated = [line["policy_version"] for line in lines(fleet.run_dir.evaluations)]
    assert len(evaluated) >= 3
    assert all(line["num_problems"] == PROBLEMS for line in lines(fleet.run_dir.evaluations))
    assert fleet.controller.status().plain()["ledger"].get("reissued", 0) == 0
    assert audit(fleet.run_dir.path).is_clean


def test_one_that_cannot_live_is_given_up_and_the_run_goes_on(tmp_path: Path):
    fleet = make_fleet(tmp_path, "hopeless", num_versions=60, placement__max_restarts=1)

    def broken() -> Any:
        raise RuntimeError("no memory left")

    fleet.make_sources = broken
    assert run(fleet) == ""
    assert len(events(fleet, "evaluator_given_up")) == 1
    assert [step["policy_version"] for step in lines(fleet.run_dir.metrics)] == list(range(1, 61))


def test_a_retired_version_is_passed_over_for_the_newest(tmp_path: Path):
    fleet = make_fleet(tmp_path, "retired")
    paced(fleet, token_s=0.001)
    refused: list[int] = []

    class Retired:
        """The evaluator's end of the channel: version 3 is gone."""

        def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
            if announcement.policy_version.number == 3:
                refused.append(3)
                raise WeightsError("version 0.3 is retired")
            return fleet.weights.stage(announcement)

        def close(self) -> None: ...

    make = fleet._make

    def with_retired(context: Any) -> Any:
        actor = make(context)
        if context.spec.role == "evaluator":
            actor._weights.receiver = Retired()
        return actor

    fleet._make = with_retired
    assert run(fleet) == ""
    evaluated = [line["policy_version"] for line in lines(fleet.run_dir.evaluations)]
    assert refused
    assert 3 not in evaluated
    assert evaluated[:1] == [0]
    assert set(evaluated) & {4, 5}


def test_a_report_that_comes_twice_is_written_once(tmp_path: Path):
    fleet = make_fleet(tmp_path, "twice")
    paced(fleet, token_s=0.001)

    async def again(fleet: OneProcessFleet) -> None:
        await until(lambda: lines(fleet.run_dir.evaluations))
        evaluator = fleet.actors["evaluator-0"]
        request, sent = evaluator.controller.request, []

        async def twice(message: Any, **options: Any) -> Any:
            if type(message).__name__ == "VersionEvaluated":
                sent.append(await request(message, **options))
            return await request(message, **options)

        evaluator.controller.request = twice

    assert run(fleet, again) == ""
    evaluated = [line["policy_version"] for line in lines(fleet.run_dir.evaluations)]
    assert len(evaluated) == len(set(evaluated)) >= 3

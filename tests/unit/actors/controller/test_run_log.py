"""What the controller writes down, and what it makes of its last lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ring_async.actors.controller.run_log import RunLog, last_line
from ring_async.core.event_kinds import EventKind
from ring_async.records.events import read_event
from ring_async.records.figures import BufferTotals, ScoredTotals
from ring_async.records.steps import StepRecord
from ring_async.storage.run_dir import RunDir
from ring_async.transport.messages.batches import StepCompleted
from ring_async.transport.messages.versions import VersionEvaluated
from ring_async.types import PolicyVersion


@pytest.fixture
def run_log(tmp_path: Path):
    log = RunLog(RunDir(tmp_path))
    yield log
    log.close()


def test_the_time_left_follows_the_pace(run_log: RunLog):
    assert run_log.remaining_s(100) is None
    run_log.recent_steps.append(StepRecord(policy_version=10, wall_s=5.0))
    assert run_log.remaining_s(100) is None
    run_log.recent_steps.append(StepRecord(policy_version=14, wall_s=13.0))
    assert run_log.remaining_s(100) == 86 * 2.0
    assert run_log.remaining_s(14) == 0.0
    run_log.recent_steps.append(StepRecord(policy_version=10, wall_s=14.0))
    assert run_log.remaining_s(100) is None, "the learner went back to a checkpoint"


def test_an_evaluation_is_a_line_and_an_event_however_often_it_is_reported(run_log: RunLog, tmp_path: Path):
    reports = [VersionEvaluated(PolicyVersion(0, number), {"pass_at_1": 0.5, "seconds": 1.0}) for number in (3, 3, 6)]
    for report in reports:
        run_log.evaluation(report, author="evaluator-0")
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["policy_version"] for line in lines] == [3, 6]
    assert [event.details["policy_version"] for event in run_log.recent_events] == [3, 6]


def completed(number: int, incarnation: int = 0) -> StepCompleted:
    return StepCompleted(number, PolicyVersion(incarnation, number), {"reward_mean": 0.5})


def steps(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]


def test_a_step_that_is_reported_to_two_controllers_is_one_line(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    for is_fleet_alive, numbers in ((False, (1, 2)), (True, (2, 3)), (True, (3, 4))):
        log = RunLog(run_dir, is_fleet_alive=is_fleet_alive)
        for number in numbers:
            log.step(completed(number), generated_tokens=100.0 * number, buffer=BufferTotals())
        log.close()
    assert [step["policy_version"] for step in steps(run_dir)] == [1, 2, 3, 4]
    wall_s = [step["wall_s"] for step in steps(run_dir)]
    assert wall_s == sorted(wall_s), "the run's time goes on"
    assert steps(run_dir)[2]["generated_tokens_per_s"] == 0.0, "unknown, and not all tokens within an instant"


def test_a_learner_that_goes_back_to_a_checkpoint_writes_its_versions_again(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    log = RunLog(run_dir)
    for step in (completed(1), completed(2), completed(2, incarnation=1)):
        log.step(step, generated_tokens=0.0, buffer=BufferTotals())
    log.close()
    assert [(step["incarnation"], step["policy_version"]) for step in steps(run_dir)] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("text", "number"), [("", None), ('{"a": 1}\n', 1), ('{"a": 1}\n{"a": 2}\n{"a"', 2), ("{", None)]
)
def test_the_last_whole_line_of_a_file(tmp_path: Path, text: str, number: int | None):
    (tmp_path / "lines.jsonl").write_text(text)
    found = last_line(tmp_path / "lines.jsonl")
    assert (found and found["a"]) == number
    assert last_line(tmp_path / "none.jsonl") is None


def test_a_step_joins_the_learners_figures_with_rewards_scored_since_the_step_before(run_log: RunLog, tmp_path: Path):
    own = {"entropy": 0.7, "reward_mean": 0.9, "reward_by_source": {"sums": 0.9}, "engine_own": [1, 2]}

    def step(number: int, **scored: ScoredTotals) -> None:
        completed = StepCompleted(number, PolicyVersion(0, number), own)
        run_log.step(completed, generated_tokens=0, buffer=BufferTotals(buffer_tokens=7, evicted=2, scored=scored))

    step(1, sums=ScoredTotals(4, 1.0))
    step(2, sums=ScoredTotals(8, 4.0), letters=ScoredTotals(4, 4.0))
    step(3, sums=ScoredTotals(8, 4.0), letters=ScoredTotals(4, 4.0))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["reward_mean"] for line in lines] == [0.25, 0.875, 0.9]
    assert [line["reward_by_source"] for line in lines] == [
        {"sums": 0.25},
        {"sums": 0.75, "letters": 1.0},
        {"sums": 0.9},
    ]
    assert [line["batch_reward_mean"] for line in lines] == [0.9] * 3
    assert (lines[0]["buffer_tokens"], lines[0]["evicted"], lines[0]["engine_own"]) == (7, 2, [1, 2])
    assert "cross_entropy" not in lines[0], "a figure that the run does not have is left out"


def test_an_event_is_read_back_as_it_was_written(run_log: RunLog, tmp_path: Path):
    run_log.event(EventKind.SCALED, author="api", role="rollout", before=2, after=3)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    event = read_event(json.loads(line))
    assert event == run_log.recent_events[-1]
    assert (event.kind, event.details["after"]) == (EventKind.SCALED, 3)

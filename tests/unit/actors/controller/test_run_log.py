"""What the controller writes down, and what it makes of its last lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ring_async.actors.controller.run_log import RunLog
from ring_async.storage.run_dir import RunDir
from ring_async.transport.messages.versions import VersionEvaluated
from ring_async.types import PolicyVersion


@pytest.fixture
def run_log(tmp_path: Path):
    log = RunLog(RunDir(tmp_path))
    yield log
    log.close()


def test_the_time_left_follows_the_pace(run_log: RunLog):
    assert run_log.remaining_s(100) is None
    run_log.recent_steps.append({"policy_version": 10, "wall_s": 5.0})
    assert run_log.remaining_s(100) is None
    run_log.recent_steps.append({"policy_version": 14, "wall_s": 13.0})
    assert run_log.remaining_s(100) == 86 * 2.0
    assert run_log.remaining_s(14) == 0.0
    run_log.recent_steps.append({"policy_version": 10, "wall_s": 14.0})
    assert run_log.remaining_s(100) is None, "the learner went back to a checkpoint"


def test_an_evaluation_is_a_line_and_an_event_however_often_it_is_reported(run_log: RunLog, tmp_path: Path):
    reports = [VersionEvaluated(PolicyVersion(0, number), {"pass_at_1": 0.5, "seconds": 1.0}) for number in (3, 3, 6)]
    for report in reports:
        run_log.evaluation(report, author="evaluator-0")
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["policy_version"] for line in lines] == [3, 6]
    assert [event["policy_version"] for event in run_log.recent_events] == [3, 6]

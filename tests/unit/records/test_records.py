"""Status, steps and events: what is written is read back, and what is odd costs itself alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.roster import Role
from ring_async.errors import RunError
from ring_async.records.events import Event, read_event
from ring_async.records.figures import BufferTotals, LearnerFigures, RolloutFigures, ScoredTotals, scored_since, total
from ring_async.records.status import ActorStatus, RunStatus, read_status, status_schema
from ring_async.records.steps import EvaluationRecord, SourceEvaluation, StepRecord, evaluation_record, step_record
from ring_async.testing.builders import make_metrics_row


def make_status(**fields: Any) -> RunStatus:
    return RunStatus(
        run="local",
        state=RunState.STOPPING,
        reason="stop.wall_s: 60 s of training",
        actors=(
            ActorStatus(
                actor_id="rollout-0",
                role=Role.ROLLOUT,
                state=ActorState.RUNNING,
                waiting_for="a free engine slot",
                wait_cause=WaitCause.SLOT,
                counters=RolloutFigures(generated_tokens=31),
            ),
            ActorStatus(actor_id="learner-0", role=Role.LEARNER, counters=LearnerFigures(steps=2)),
        ),
        buffer=BufferTotals(buffer_tokens=5, is_learner_waiting=True, scored={"sums": ScoredTotals(4, 2.0)}),
        last_step=StepRecord(policy_version=3, entropy=0.5, more={"pipeline_bubble": 0.1}),
        last_evaluation=EvaluationRecord(
            policy_version=2, pass_at_1=None, by_source={"sums": SourceEvaluation(pass_at_1=0.5)}
        ),
        events=(Event(1.5, EventKind.SCALED, "api", {"role": "rollout", "before": 1, "after": 2}),),
        **fields,
    )


def test_a_status_is_read_back_from_its_json():
    status = make_status()
    assert read_status(json.loads(json.dumps(status.plain()))) == status


def test_in_json_a_state_is_its_name_a_boolean_a_boolean_and_a_line_is_flat():
    plain = make_status().plain()
    assert plain["state"] == "stopping"
    assert plain["reason"] == "stop.wall_s: 60 s of training"
    assert plain["buffer"]["is_learner_waiting"] is True
    assert plain["actors"][0]["counters"] == {"role": "rollout", "generated_tokens": 31}
    assert plain["actors"][0]["wait_cause"] == "slot"
    assert plain["last_step"]["pipeline_bubble"] == 0.1
    assert plain["events"] == [
        {"time": 1.5, "kind": "scaled", "author": "api", "role": "rollout", "before": 1, "after": 2}
    ]


def test_a_status_of_another_schema_is_refused_and_a_new_field_is_not():
    with pytest.raises(RunError, match="schema version 99"):
        read_status(make_status().plain() | {"schema_version": 99})
    with pytest.raises(RunError, match="cannot be read"):
        read_status({"state": "dancing"})
    assert read_status(make_status().plain() | {"added_later": 1}) == make_status()


def test_the_schema_describes_every_field_of_the_answer():
    _, components = status_schema()
    assert set(components["RunStatus"]["properties"]) == set(make_status().plain())
    assert "details" not in components["Event"]["properties"]
    assert components["RunState"]["enum"] == sorted(RunState)


@given(st.dictionaries(st.sampled_from(["entropy", "reward_by_source", "loss_tokens", "own"]), st.none() | st.text()))
def test_an_odd_figure_costs_itself_alone(odd: dict[str, Any]):
    record = step_record({"policy_version": 7, "grad_norm": 0.25} | odd)
    assert (record.policy_version, record.grad_norm, record.entropy) == (7, 0.25, None)


@pytest.mark.parametrize("line", [{}, {"policy_version": "seven"}, {"policy_version": None}])
def test_a_line_without_a_version_is_no_step_and_no_evaluation(line: dict[str, Any]):
    for read in (step_record, evaluation_record):
        with pytest.raises(ValueError, match="policy_version"):
            read(line)


def test_a_line_as_runs_write_it_is_all_known():
    row = make_metrics_row(3)
    record = step_record(row)
    assert record.more == {}
    assert record.plain() == row | {"incarnation": 0, "schema_version": 1}


def test_an_event_of_another_release_keeps_its_kind_in_its_details():
    event = read_event({"time": 1, "kind": "teleported", "author": "api", "where": "moon"})
    assert (event.kind, event.details) == (EventKind.OTHER, {"kind": "teleported", "where": "moon"})
    with pytest.raises(ValueError, match="a time, a kind and an author"):
        read_event({"kind": "paused"})


def test_shards_add_up():
    first = BufferTotals(
        buffer_tokens=10, buffer_trajectories=1, next_plan_number=4, evicted=1, scored={"a": ScoredTotals(2, 1.0)}
    )
    second = BufferTotals(
        buffer_tokens=5, next_plan_number=3, is_learner_waiting=True, scored={"a": ScoredTotals(2, 2.0)}
    )
    assert total([first, second]) == BufferTotals(
        buffer_tokens=15, buffer_trajectories=1, next_plan_number=4, is_learner_waiting=True, evicted=1,
        scored={"a": ScoredTotals(4, 3.0)},
    )  # fmt: skip
    assert total([]) == BufferTotals()


def test_rewards_between_two_reports_also_after_a_shards_restart():
    before = {"a": ScoredTotals(10, 5.0), "b": ScoredTotals(4, 4.0)}
    now = {"a": ScoredTotals(14, 6.0), "b": ScoredTotals(2, 1.0), "c": ScoredTotals(1, 0.5)}
    assert scored_since(before, now) == {
        "a": ScoredTotals(4, 1.0),
        "b": ScoredTotals(2, 1.0),
        "c": ScoredTotals(1, 0.5),
    }
    assert scored_since(now, now) == {}


@pytest.mark.parametrize(
    "odd", [{"events": [{"kind": 1}]}, {"last_step": {"policy_version": "x"}}, {"actors": [{"pid": "x"}]}]
)
def test_an_answer_that_is_no_status_is_refused_in_words(odd: dict[str, object]) -> None:
    with pytest.raises(RunError, match="status cannot be read"):
        read_status(odd)

"""What the controller remembers of a run for `explain` and the page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from ring_async.actors.controller import run_history
from ring_async.actors.controller.run_history import NUM_SAMPLES, SAMPLE_S, RunHistory, limits_of, sample_of
from ring_async.clock import wall_s
from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.roster import Role
from ring_async.records.events import Event
from ring_async.records.figures import BufferTotals, RolloutFigures, ScoredTotals
from ring_async.records.status import ActorStatus, ChangesStatus, LedgerCounts, RunStatus
from ring_async.records.steps import StepRecord
from ring_async.storage.run_dir import RunDir
from ring_async.testing.builders import make_config
from ring_async.testing.virtual_clock import run_virtual

STATUS = RunStatus(
    run="mine",
    state=RunState.RUNNING,
    policy_version=7,
    actors=(
        ActorStatus(
            actor_id="rollout-0",
            role=Role.ROLLOUT,
            state=ActorState.RUNNING,
            wait_cause=WaitCause.RESERVATION,
            waiting_for="a reservation" + "!" * 1000,
            waited_s=2.0,
            heartbeat_age_s=0.5,
            counters=RolloutFigures(generated_tokens=9, capacity=4),
        ),
        ActorStatus(actor_id="learner-0", role=Role.LEARNER, state=ActorState.STARTING),
    ),
    ledger=LedgerCounts(reserved=3),
    buffer=BufferTotals(scored={"sums": ScoredTotals(4, 2.0)}),
    changes=ChangesStatus(mixture={"sums": 1.0}),
    paused_sources=("letters",),
)


def make_history(folder: Path) -> tuple[RunHistory, SimpleNamespace]:
    log = SimpleNamespace(recent_steps=[], recent_events=[])
    log.event = lambda kind, *, author, **details: log.recent_events.append(Event(wall_s(), kind, author, details))
    context = SimpleNamespace(config=make_config(), run_log=log, run_dir=RunDir(folder))
    return RunHistory(context, lambda: STATUS, lambda: {"replay.max_staleness": 9}), log


def test_a_sample_holds_zeros_and_leaves_out_what_is_unknown():
    sample = sample_of(STATUS, time=100.0, uptime_s=1.0)
    rollout, learner = sample.actors
    assert rollout.figures["generated_tokens"] == 9
    assert rollout.figures["running"] == 0
    assert "policy_version" not in rollout.figures
    assert (rollout.wait, rollout.silent_s, len(rollout.waiting_for)) == ("reservation", 0.5, 200)
    assert (learner.figures, learner.silent_s) == ({}, None)
    assert sample.scored == {"sums": (4, 2.0)}
    assert sample.paused_sources == ("letters",)


def test_samples_come_at_their_pace_and_the_oldest_go(tmp_path: Path):
    async def live() -> RunHistory:
        history, _ = make_history(tmp_path)
        running = asyncio.create_task(history.run())
        await asyncio.sleep(SAMPLE_S * (NUM_SAMPLES + 10) - 0.1)
        running.cancel()
        return history

    history = run_virtual(live())
    assert len(history.samples) == NUM_SAMPLES
    assert history.samples[0].uptime_s == pytest.approx(10 * SAMPLE_S)


def test_steps_and_events_are_taken_once(tmp_path: Path):
    history, log = make_history(tmp_path)
    log.recent_steps.append(StepRecord(policy_version=1, time=10.0, step_s=0.5))
    log.recent_events.append(Event(11.0, EventKind.PAUSED, "ada", {"why": "lunch"}))
    for _ in range(2):
        recent = history.recent()
    assert [step.policy_version for step in recent.steps] == [1]
    assert [(one.kind, one.author, one.details) for one in recent.events] == [("paused", "ada", {"why": "lunch"})]
    log.recent_steps.append(StepRecord(policy_version=2, time=12.0))
    assert [step.policy_version for step in history.recent().steps] == [1, 2]


def test_limits_follow_live_changes(tmp_path: Path):
    history, _ = make_history(tmp_path)
    assert limits_of(make_config()).max_staleness != 9
    assert history.recent().limits.max_staleness == 9


def test_a_disk_that_cannot_be_asked_is_unknown(tmp_path: Path):
    assert run_history._disk(tmp_path / "none") == (None, None)


def test_what_explain_says_for_a_while_becomes_one_event(tmp_path: Path):
    async def live() -> list[Event]:
        history, log = make_history(tmp_path)
        running = asyncio.create_task(history.run())
        await asyncio.sleep(20 * SAMPLE_S)
        running.cancel()
        return log.recent_events

    [event] = run_virtual(live())
    assert (event.kind, event.author) == (EventKind.ALERT_RAISED, "explain")
    assert event.details["cause"] == "failing_verifier"
    assert event.details["who"] == "letters"
    assert "Source letters is paused" in event.details["what"]
    assert event.details["remedy"]

"""Difficulty windows of a run at work: what is issued, what survives, what is refused, and when none is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from one_process_run import GRADED, events, make_live_fleet, reservations, run, until_version
from ring_async.errors import ConfigError
from ring_async.storage.audit import audit
from ring_async.testing.one_process import OneProcessFleet

SECTION = {"task": "chain_sum", "verifier": "exact"}
NUM_ROWS = 60
SOURCES = {"sums": SECTION, "letters": SECTION, "rows": SECTION | {"options": {"num_prompts": NUM_ROWS}}}
MIDDLE = {"by": "last_digit", "low": 4, "high": 6}


def make_fleet(runs: Path, **overrides: Any) -> OneProcessFleet:
    return make_live_fleet(runs, **({"stop__policy_versions": 20, "sources": SOURCES} | overrides))


def digits(fleet: OneProcessFleet, source: str, *, since_epoch: int) -> set[int]:
    """Last digits of the prompts of a source that were issued from this mixture epoch on."""
    issued = [one for one in reservations(fleet) if one.mixture_epoch >= since_epoch and one.prompt.source == source]
    assert len({one.group_id for one in issued}) == len(issued)
    return {one.prompt.metadata["last_digit"] for one in issued}


def test_only_prompts_within_are_issued_from_a_change_on_and_after_a_resume(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 3)
        status = await fleet.controller.changes.set_mixture({}, difficulty={"sums": MIDDLE}, author="somebody")
        assert status["mixture"] == {"sums": 0.5, "letters": 0.5}
        assert status["difficulty"]["sums"] == MIDDLE | {"num_passed": 0}
        await until_version(fleet, 8)
        assert fleet.controller.status().plain()["changes"]["difficulty"]["sums"]["num_passed"] > 0
        fleet.controller.shut_down("test", deadline_s=30.0)

    first = make_fleet(tmp_path)
    assert run(first, change) == ""
    assert digits(first, "sums", since_epoch=0) == set(range(10))
    assert digits(first, "sums", since_epoch=1) == {4, 5, 6}
    assert digits(first, "letters", since_epoch=1) == set(range(10))
    (changed,) = events(first, "difficulty_changed")
    assert (changed["author"], changed["before"], changed["after"]) == ("somebody", {"sums": None}, {"sums": MIDDLE})
    assert changed["mixture_epoch"] == 1
    num_before = len(reservations(first))

    again = make_fleet(tmp_path, is_resumed=True)
    assert run(again) == ""
    resumed = reservations(again)[num_before:]
    assert {one.prompt.metadata["last_digit"] for one in resumed if one.prompt.source == "sums"} == {4, 5, 6}
    assert audit(again.run_dir.path).is_clean


def test_a_bad_window_is_refused_and_changes_nothing(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 2)
        with pytest.raises(ConfigError, match=r"difficulty\.novels: no such source; sources are letters, rows, sums"):
            await changes.set_mixture({"sums": 1.0}, difficulty={"novels": MIDDLE})
        with pytest.raises(ConfigError, match="none of the next 4,096 prompts lies within last_digit 11:12"):
            await changes.set_mixture({"sums": 1.0}, difficulty={"sums": MIDDLE | {"low": 11, "high": 12}})
        with pytest.raises(ConfigError, match="no number called 'level'; numbers they carry are last_digit"):
            await changes.set_mixture({}, difficulty={"sums": {"by": "level", "low": 1}})
        with pytest.raises(ConfigError, match="its prompts never come again"):
            await changes.set_mixture({}, difficulty={"sums": {"by": "observed", "low": 0.2}})
        assert changes.status()["mixture_epoch"] == 0
        assert changes.status()["difficulty"] == {}

    fleet = make_fleet(tmp_path, stop__policy_versions=4)
    assert run(fleet, change) == ""
    assert not events(fleet, "mixture_changed")
    assert not events(fleet, "difficulty_changed")


def test_windows_follow_the_schedule(tmp_path: Path):
    steps = [
        {"at_version": 4, "mixture": {"sums": 1.0}, "difficulty": {"sums": MIDDLE}},
        {"at_version": 8, "mixture": {"sums": 1.0}, "difficulty": {"sums": MIDDLE | {"low": 50, "high": 60}}},
        {"at_version": 12, "mixture": {"sums": 1.0}, "difficulty": {"sums": None}},
    ]
    configured = {"sums": {"by": "last_digit", "high": 3}}
    fleet = make_fleet(tmp_path, mixture_schedule=steps, difficulty=configured, mixture={"sums": 1.0})
    assert run(fleet) == ""
    by_epoch = {
        epoch: {one.prompt.metadata["last_digit"] for one in reservations(fleet) if one.mixture_epoch == epoch}
        for epoch in range(3)
    }
    assert by_epoch == {0: {0, 1, 2, 3}, 1: {4, 5, 6}, 2: set(range(10))}
    (refused,) = events(fleet, "schedule_refused")
    assert refused["at_version"] == 8
    assert "none of the next 4,096 prompts" in refused["reason"]


def test_prompts_seen_to_be_always_or_never_solved_are_passed_over_also_after_a_resume(tmp_path: Path):
    async def stop(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 7)
        fleet.controller.shut_down("test", deadline_s=30.0)

    settings: dict[str, Any] = {
        "mixture": {"rows": 1.0},
        "difficulty": {"rows": {"by": "observed", "low": 0.1, "high": 0.9}},
        "verifiers": {"exact": {"use": GRADED}},
        "rollout__group_size": 8,
    }
    first = make_fleet(tmp_path, **settings)
    assert run(first, stop) == ""
    num_before = len(reservations(first))
    assert num_before > NUM_ROWS
    again = make_fleet(tmp_path, is_resumed=True, **settings)
    assert run(again) == ""
    issued = [(int(one.group_id[-8:]), one.prompt.metadata["last_digit"]) for one in reservations(again)]
    assert {digit for index, digit in issued if index < NUM_ROWS} == set(range(10))
    known = [digit for index, digit in issued if 2 * NUM_ROWS <= index < 4 * NUM_ROWS]
    assert len(known) > 30
    assert set(known) == {6, 7, 8, 9}
    assert {digit for index, digit in issued[num_before:] if index < 4 * NUM_ROWS} == {6, 7, 8, 9}
    assert audit(again.run_dir.path).is_clean


def test_a_window_that_holds_no_prompt_any_more_is_seen_and_waited_for_not_searched_for_ever(tmp_path: Path):
    """The file of a resumed run has changed, say: nothing refuses the window then."""

    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 3)
        changes, prompts = fleet.controller.changes, fleet.controller._dispatcher.prompts
        await changes.set_mixture({"rows": 1.0}, difficulty={"rows": MIDDLE})
        num_made = 0
        source = prompts._searches["rows"].source
        make = source.prompt

        def without_number(index: int) -> Any:
            nonlocal num_made
            num_made += 1
            prompt = make(index)
            prompt.metadata.clear()
            return prompt

        source.prompt = without_number
        await asyncio.sleep(20.0)
        assert num_made <= NUM_ROWS + 1
        waits = {actor["actor_id"]: actor["waiting_for"] for actor in fleet.controller.status().plain()["actors"]}
        assert "no prompt within the difficulty window of rows (last_digit 4:6, 60 passed over)" in waits["rollout-0"]
        source.prompt = make
        await changes.set_mixture({}, difficulty={"rows": None})

    fleet = make_fleet(tmp_path, stop__policy_versions=8)
    assert run(fleet, change) == ""
    (empty,) = events(fleet, "difficulty_window_empty")
    assert (empty["source"], empty["num_passed"]) == ("rows", NUM_ROWS)

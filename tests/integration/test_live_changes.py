"""Mixture and settings changed while a run goes on: the effect, its place, and what survives."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from changing_fleet import MAX_STALENESS, TOKEN_BUDGET, make_fleet
from one_process_run import events, lines, run, until_version
from ring_async.actors.controller.mixture_changes import MixtureChanges
from ring_async.core.roster import CONTROLLER_ID
from ring_async.errors import ConfigError, RefusedError
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.one_process import OneProcessFleet


def test_completed_tokens_follow_a_new_mixture_within_five_points(tmp_path: Path):
    """In the window of (max_staleness + 1)·Φ to (max_staleness + 3)·Φ tokens after the change."""
    completed: list[tuple[str, int]] = []
    at_change: list[int] = []

    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 1)
        mixture = fleet.controller._dispatcher.prompts.mixture
        count = mixture.completed

        def count_too(source: str, num_tokens: int) -> None:
            completed.append((source, num_tokens))
            count(source, num_tokens)

        mixture.completed = count_too
        await until_version(fleet, 15)
        at_change.append(len(completed))
        await fleet.controller.changes.set_mixture({"sums": 0.8, "letters": 0.2}, author="somebody")

    fleet = make_fleet(tmp_path)
    assert run(fleet, change) == ""
    (changed,) = events(fleet, "mixture_changed")
    assert changed["author"] == "somebody"
    assert changed["before"] == {"sums": 0.5, "letters": 0.5}
    assert changed["after"] == {"sums": 0.8, "letters": 0.2}
    before = share_of_sums(completed[: at_change[0]], 0, 10**9)
    window = (MAX_STALENESS + 1) * TOKEN_BUDGET, (MAX_STALENESS + 3) * TOKEN_BUDGET
    assert before == pytest.approx(0.5, abs=0.05)
    assert share_of_sums(completed[at_change[0] :], *window) == pytest.approx(0.8, abs=0.05)


def share_of_sums(groups: list[tuple[str, int]], begin: int, end: int) -> float:
    """Share of `sums` among the tokens from `begin` to `end`."""
    tokens, position = {"sums": 0, "letters": 0}, 0
    for source, num_tokens in groups:
        tokens[source] += max(0, min(position + num_tokens, end) - max(position, begin))
        position += num_tokens
    return tokens["sums"] / sum(tokens.values())


def test_a_source_is_added_and_one_is_taken_out(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 5)
        with pytest.raises(ConfigError, match=r"mixture\.novels: no such source"):
            await changes.set_mixture({"novels": 1.0})
        with pytest.raises(ConfigError, match="finite, 0 or more"):
            await changes.set_mixture({"sums": -1.0})
        with pytest.raises(RefusedError, match="no verifier is called 'critic'"):
            await changes.set_mixture({"plays": 1.0}, {"plays": {"task": "chain_sum", "verifier": "critic"}})
        new = {"task": "chain_sum", "verifier": "exact"}
        await changes.set_mixture({"poems": 1.0, "plays": 1.0}, {"plays": new})

    fleet = make_fleet(tmp_path)
    assert run(fleet, change) == ""
    assert len(events(fleet, "mixture_changed")) == 1
    assert [event["source"] for event in events(fleet, "source_added")] == ["plays"]
    last = lines(fleet.run_dir.metrics)[-1]["reward_by_source"]
    assert set(last) == {"poems", "plays"}
    assert audit(fleet.run_dir.path).is_clean


def test_the_mixture_follows_its_schedule(tmp_path: Path):
    steps = [{"at_version": 6, "mixture": {"letters": 1.0}}, {"at_version": 12, "mixture": {"poems": 1.0}}]
    fleet = make_fleet(tmp_path, mixture_schedule=steps)
    assert run(fleet) == ""
    changed = events(fleet, "mixture_changed")
    assert [(event["author"], event["after"]) for event in changed] == [
        ("schedule", {"letters": 1.0}),
        ("schedule", {"poems": 1.0}),
    ]
    assert set(lines(fleet.run_dir.metrics)[-1]["reward_by_source"]) == {"poems"}


def test_a_step_of_the_schedule_outlives_a_controller_that_dies_before_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The step waits for a thread that looks for a prompt; meanwhile the controller writes its journal, and dies."""
    follow, num_deaths = MixtureChanges.change, 0

    async def die_first(changes: MixtureChanges, *change: Any, author: str) -> None:
        nonlocal num_deaths
        if author == "schedule" and num_deaths == 0:
            num_deaths += 1
            await asyncio.sleep(2.0)
            fleet.kill(CONTROLLER_ID)
            await asyncio.sleep(60.0)
        await follow(changes, *change, author=author)

    monkeypatch.setattr(MixtureChanges, "change", die_first)
    fleet = make_fleet(tmp_path, mixture_schedule=[{"at_version": 6, "mixture": {"letters": 1.0}}])
    assert run(fleet) == ""
    assert num_deaths == 1
    assert [event["after"] for event in events(fleet, "mixture_changed")] == [{"letters": 1.0}]


def test_settings_take_effect_where_they_belong_and_survive_a_restart_of_everybody(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 5)
        with pytest.raises(ConfigError, match="cannot change while the run goes on"):
            await changes.set_knobs({"seed": 3, "learner.learning_rate": 1.0})
        await changes.set_knobs({"learner.learning_rate": 5e-4, "correction.rule": "cispo"})
        await changes.set_knobs({"budget.token_budget": 256, "replay.max_staleness": 2, "rollout.temperature": 0.5})
        assert fleet.train_engines[-1].knobs["learner.learning_rate"] == 5e-4
        await until_version(fleet, 12)
        fleet.kill("learner-0")
        fleet.kill("replay-0")
        await until_version(fleet, 20)
        fleet.controller.shut_down("test", deadline_s=30.0)

    fleet = make_fleet(tmp_path)
    assert run(fleet, change) == ""
    assert fleet.train_engines[1].knobs == {"learner.learning_rate": 5e-4, "correction.rule": "cispo"}
    again = make_fleet(tmp_path, is_resumed=True, stop__policy_versions=24)
    assert run(again) == ""
    assert again.train_engines[0].knobs["correction.rule"] == "cispo"
    steps = lines(fleet.run_dir.metrics)
    assert [step["loss_tokens"] for step in steps[:4]] == [TOKEN_BUDGET] * 4
    assert {step["loss_tokens"] for step in steps[10:]} == {256}
    assert max(step["staleness_max"] for step in steps[10:]) <= 2
    store = ReplayStore(fleet.run_dir.replay / "replay-0", 64 << 20, is_readonly=True)
    with store.read() as reader:
        newest = max((record for record, _ in reader.records()), key=lambda record: record.arrival)
    store.close()
    assert newest.header.sampling.temperature == 0.5
    assert audit(fleet.run_dir.path).is_clean


def test_a_configuration_that_says_otherwise_overrules_what_was_set_live(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 3)
        await fleet.controller.changes.set_knobs({"learner.learning_rate": 5e-4, "rollout.temperature": 0.5})
        await fleet.controller.changes.set_mixture({"poems": 1.0})
        fleet.controller.shut_down("test", deadline_s=30.0)

    assert run(make_fleet(tmp_path), change) == ""
    again = make_fleet(
        tmp_path, is_resumed=True, stop__policy_versions=8, rollout__temperature=2.0, mixture={"sums": 1}
    )
    assert run(again) == ""
    changes = again.controller.changes.status()
    assert changes["knobs"] == {"learner.learning_rate": 5e-4}
    assert changes["mixture"] == {"sums": 1.0}

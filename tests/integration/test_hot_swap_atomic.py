"""Changes of verifier under load, with reward actors dying: no group, and with `rescore` no batch, mixes epochs."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from one_process_run import SALTED, Salted, events, lines, run, until_version
from ring_async.actors.controller.changes import LiveChanges
from ring_async.actors.controller.verifier_swap import Swap
from ring_async.errors import RingAsyncError
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response

TOKEN_BUDGET = 256
NUM_SWAPS = int(os.environ.get("RING_NUM_SWAPS", "200"))


class Wrong(Salted):
    """Fails its own golden case."""

    def __init__(self) -> None:
        prompt = Prompt("golden", "sums", "1 + 1 =")
        super().__init__(cases=[GoldenCase(prompt, Response("4"), reward=9.0)])


class Crashing(ScriptedVerifier):
    """Cannot judge anything once it is in service."""

    def __init__(self) -> None:
        super().__init__(failures=["crash"] * 100_000)


def make_fleet(runs: Path, **overrides: Any) -> OneProcessFleet:
    settings: dict[str, Any] = {
        "stop__policy_versions": 40,
        "rollout__group_size": 4,
        "rollout__num": 2,
        "rollout__max_running_requests": 16,
        "reward__num": 2,
        "verifiers": {"exact": {"use": SALTED}},
        "budget__token_budget": TOKEN_BUDGET,
        "replay__map_size_bytes": 64 << 20,
        "checkpoint__every_versions": 4,
        "placement__max_restarts": 1_000,
        "placement__restart_window_s": 1.0,
    }
    return OneProcessFleet(make_config(**(settings | overrides)), runs, token_s=0.01, train_s=0.5)


async def swapped(changes: LiveChanges, name: str, use: str, options: dict[str, Any], **how: Any) -> Swap:
    """Change a verifier and wait for the end of it."""
    swap_id = changes.swap_verifier(name, use, options, **how)["swap_id"]
    await changes.follow_swap(swap_id, 600.0)
    return changes._swaps.get(swap_id)


def plan_entries(fleet: OneProcessFleet) -> list[Any]:
    store = ReplayStore(fleet.run_dir.replay / "replay-0", 64 << 20, is_readonly=True)
    with store.read() as reader:
        entries = list(reader.plans_after(0))
    store.close()
    return entries


def prove(fleet: OneProcessFleet) -> None:
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    assert {step["loss_tokens"] for step in lines(fleet.run_dir.metrics)} == {TOKEN_BUDGET}


def test_a_swap_moves_the_epoch_and_a_rollback_leaves_no_trace(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 5)
        swap = await swapped(changes, "exact", SALTED, {"salt": 1}, shadow=40)
        assert swap.state == "committed", swap.reason
        assert swap.report.num_trajectories >= 40
        assert 0 < swap.report.num_agreed < swap.report.num_trajectories
        await until_version(fleet, 15)
        rollback = changes.roll_back_verifier("exact")
        ended = await changes.follow_swap(rollback["swap_id"], 60.0)
        assert ended["state"] == "committed", ended

    fleet = make_fleet(tmp_path)
    assert run(fleet, change) == ""
    prove(fleet)
    assert [event["after"]["epoch"] for event in events(fleet, "verifier_swapped")] == [1]
    entries = plan_entries(fleet)
    epochs = [{epoch for _, epoch in entry.scored_by} for entry in entries]
    assert {0} in epochs
    assert {1} in epochs
    assert epochs[-1] == {2}
    rolled_back = next(n for n, entry in enumerate(entries) if entry.epoch_rules)
    assert 1 in set().union(*epochs[:rolled_back]), "the new verifier was never trained on"
    assert 1 not in set().union(*epochs[rolled_back:]), "a rolled-back verdict was trained on"
    assert fleet.controller.status().plain()["causes"].get("dropped(rescored)", 0) + rescored(fleet) > 0


def rescored(fleet: OneProcessFleet) -> int:
    """Groups that replay had judged again."""
    return sum(fleet.actors[f"replay-{index}"].rescorer.num_sent for index in range(fleet.config.replay.num))


@pytest.mark.parametrize("num_shards", [1, 2])
def test_rescore_lets_no_batch_mix_epochs(tmp_path: Path, num_shards: int):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 5)
        swap = await swapped(fleet.controller.changes, "exact", SALTED, {"salt": 1}, rescore=True)
        assert swap.state == "committed", swap.reason

    fleet = make_fleet(tmp_path, stop__policy_versions=15, replay__num=num_shards)
    assert run(fleet, change) == ""
    prove(fleet)
    epochs = [{epoch for _, epoch in entry.scored_by} for entry in plan_entries(fleet)]
    assert all(len(found) == 1 for found in epochs), epochs
    assert epochs[0] == {0}
    assert epochs[-1] == {1}
    assert rescored(fleet) > 0


@pytest.mark.parametrize("use", ["Wrong", "Missing"])
def test_a_verifier_that_cannot_serve_never_stops_the_old_one(tmp_path: Path, use: str):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        swap = await swapped(fleet.controller.changes, "exact", f"{__file__}:{use}", {})
        assert swap.state == "aborted"
        assert "golden case 0" in swap.reason if use == "Wrong" else "no class 'Missing'" in swap.reason

    fleet = make_fleet(tmp_path, stop__policy_versions=6)
    assert run(fleet, change) == ""
    prove(fleet)
    assert {epoch for entry in plan_entries(fleet) for _, epoch in entry.scored_by} == {0}
    assert len(events(fleet, "verifier_swap_aborted")) == 1


def test_a_new_verifier_that_keeps_failing_is_rolled_back_by_itself(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 3)
        swap = await swapped(fleet.controller.changes, "exact", f"{__file__}:Crashing", {})
        assert swap.state == "committed"

    fleet = make_fleet(tmp_path, stop__policy_versions=12)
    assert run(fleet, change) == ""
    prove(fleet)
    (back,) = events(fleet, "verifier_rolled_back")
    assert back["author"] == "controller-0"
    assert "crash" in back["cause"]
    assert back["after"]["use"].endswith(":Salted")


class SlowToPrepare(Salted):
    """Takes nine seconds for its golden case, and passes it if it is no worse than its reward of 1."""

    def __init__(self, golden: float = 1.0) -> None:
        super().__init__(cases=[GoldenCase(Prompt("golden", "sums", "1 + 1 ="), Response("2"), reward=golden)])

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        if prompt.prompt_id == "golden":
            await asyncio.sleep(9.0)
        return await super().score(prompt, response)


def run_with_a_failing_version_and(runs: Path, use: str, options: dict[str, Any], *, hold: bool) -> OneProcessFleet:
    """A version that crashes on everything is put in force, and somebody begins another change before that shows."""

    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 3)
        assert (await swapped(changes, "exact", f"{__file__}:Crashing", {})).state == "committed"
        changes.swap_verifier("exact", use, options, hold=hold, author="ada")

    fleet = make_fleet(runs, stop__policy_versions=12)
    assert run(fleet, change, limit_s=600.0) == ""
    prove(fleet)
    return fleet


def test_a_failing_version_is_rolled_back_though_another_change_is_held(tmp_path: Path):
    fleet = run_with_a_failing_version_and(tmp_path, SALTED, {"salt": 9}, hold=True)
    (back,) = events(fleet, "verifier_rolled_back")
    assert (back["author"], back["after"]["use"].endswith(":Salted")) == ("controller-0", True)
    (aborted,) = events(fleet, "verifier_swap_aborted")
    assert "rolled back first" in aborted["reason"]


def test_a_failing_version_is_rolled_back_after_a_change_that_came_to_nothing(tmp_path: Path):
    fleet = run_with_a_failing_version_and(tmp_path, f"{__file__}:SlowToPrepare", {"golden": 9.0}, hold=False)
    kinds = ("domain_paused", "verifier_swap_aborted", "verifier_rolled_back", "domain_resumed")
    assert [event["kind"] for event in lines(fleet.run_dir.events) if event["kind"] in kinds] == [
        "domain_paused", "verifier_swap_aborted", "domain_resumed", "verifier_rolled_back",
    ]  # fmt: skip


def test_a_remedy_that_is_being_prepared_takes_the_place_of_a_rollback(tmp_path: Path):
    fleet = run_with_a_failing_version_and(tmp_path, f"{__file__}:SlowToPrepare", {}, hold=False)
    assert events(fleet, "verifier_rolled_back") == []
    assert len(events(fleet, "domain_resumed")) == 1


def test_a_version_that_failed_is_rolled_back_again_when_it_comes_again(tmp_path: Path):
    async def change(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        for number in (1, 2):
            swap = await swapped(fleet.controller.changes, "exact", f"{__file__}:Crashing", {})
            assert swap.state == "committed", swap.reason
            while len(events(fleet, "verifier_rolled_back")) < number:
                await asyncio.sleep(0.1)

    fleet = make_fleet(tmp_path, stop__policy_versions=12)
    assert run(fleet, change, limit_s=600.0) == ""
    prove(fleet)


def test_two_failing_versions_are_rolled_back_in_turn_and_the_first_is_named(tmp_path: Path):
    names = ("exact", "second", "third")

    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 1)
        for name in names[:2]:
            assert (await swapped(changes, name, SALTED, {"salt": 1})).state == "committed"
        held = changes.swap_verifier("third", SALTED, {"salt": 1}, hold=True)["swap_id"]
        while (await changes.follow_swap(held, 0.1))["state"] != "held":
            pass
        for name in names[:2]:
            changes._swaps.roll_back_failing(name, "crash")
        while len(events(fleet, "verifier_rolled_back")) < 2:
            await asyncio.sleep(0.1)

    fleet = make_fleet(
        tmp_path, sources={name: {"task": "chain_sum", "verifier": name} for name in names},
        mixture=dict.fromkeys(names, 1.0), verifiers={name: {"use": SALTED} for name in names},
    )  # fmt: skip
    assert run(fleet, change, limit_s=600.0) == ""
    (aborted,) = events(fleet, "verifier_swap_aborted")
    assert aborted["reason"] == "verifier exact fails and is rolled back first"
    assert [event["verifier"] for event in events(fleet, "verifier_rolled_back")] == ["exact", "second"]


def test_two_hundred_swaps_while_reward_actors_die(tmp_path: Path):
    """At random times, a third with `rescore`, a fifth rolled back at once; a reward actor dies in every tenth."""
    rng = random.Random(7)
    seen: Counter[str] = Counter()

    async def change(fleet: OneProcessFleet) -> None:
        changes = fleet.controller.changes
        await until_version(fleet, 2)
        for number in range(NUM_SWAPS):
            await asyncio.sleep(rng.uniform(0.0, 0.6))
            killing = asyncio.create_task(kill_soon(fleet)) if number % 10 == 3 else None
            try:
                swap = await swapped(changes,
                    "exact", SALTED, {"salt": number + 1}, rescore=rng.random() < 1 / 3,
                    shadow=rng.choice([0, 0, 0, 12]),
                )  # fmt: skip
                seen[swap.state] += 1
                if rng.random() < 0.2 and swap.state == "committed":
                    await changes.follow_swap(changes.roll_back_verifier("exact")["swap_id"], 60.0)
            except RingAsyncError as refusal:
                seen[type(refusal).__name__] += 1
            if killing is not None:
                await killing
        fleet.controller.shut_down("200 swaps done", 30.0)

    async def kill_soon(fleet: OneProcessFleet) -> None:
        await asyncio.sleep(rng.uniform(0.0, 0.2))
        victim = rng.choice(["reward-0", "reward-1"])
        if victim in fleet._tasks:
            fleet.kill(victim)
            seen["killed"] += 1

    fleet = make_fleet(tmp_path, stop__policy_versions=100_000)
    assert run(fleet, change, limit_s=7200.0) == ""
    prove(fleet)
    assert seen["committed"] >= 180, seen
    assert seen["killed"] >= 15, seen
    entries = plan_entries(fleet)
    for entry in entries:  # one verdict, one epoch for all responses of a group: also when the group was judged twice
        by_group: dict[str, set[int]] = {}
        for sequence, (_, epoch) in zip(entry.plan.sequences, entry.scored_by, strict=True):
            by_group.setdefault(sequence.trajectory_id.rpartition("/")[0], set()).add(epoch)
        assert all(len(epochs) == 1 for epochs in by_group.values())
    with_rescore = [event["after"]["epoch"] for event in events(fleet, "verifier_swapped") if event["rescore"]]
    assert with_rescore, "no swap with rescore"
    assert max(epoch for entry in entries for _, epoch in entry.scored_by) > 150

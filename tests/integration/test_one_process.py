"""The fleet's own actors in one process under a virtual clock: kills, leases, pauses, staleness, without a sleep."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from one_process_run import EVEN_TOTAL, EvenTotal, lines, make_small_fleet, run, until_version
from ring_async.actors.base import ActorContext
from ring_async.actors.controller.controller import Controller
from ring_async.actors.replay.planner import shard_of
from ring_async.core.roster import ActorSpec
from ring_async.errors import WeightsError
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config, make_prompt
from ring_async.testing.one_process import CountingSource, OneProcessFleet
from ring_async.testing.scripted_training import ScriptedTrainEngine
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.memory import MemoryHub, MemoryTransport
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.fleet import Member, Register
from ring_async.transport.messages.versions import CheckpointCovered, CheckpointSaved, WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights
from ring_async.types import PolicyVersion
from ring_async.verifiers.base import GoldenCase, Response

make_fleet = make_small_fleet


def test_every_batch_is_exactly_phi_and_the_account_is_whole(tmp_path: Path):
    fleet = make_fleet(tmp_path)
    assert run(fleet) == ""
    steps = lines(fleet.run_dir.metrics)
    assert [step["policy_version"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step["loss_tokens"] for step in steps} == {64}
    assert max(step["staleness_max"] for step in steps) <= 4
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


def test_a_killed_rollouts_groups_are_issued_again(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        fleet.kill("rollout-0")

    fleet = make_fleet(tmp_path)
    assert run(fleet, kill) == ""
    lost = [event for event in lines(fleet.run_dir.events) if event["kind"] == "actor_lost"]
    assert [event["actor"] for event in lost] == ["rollout-0"]
    assert fleet.controller.status().plain()["ledger"]["reissued"] > 0
    assert audit(fleet.run_dir.path).is_clean


def test_a_killed_reward_actor_loses_nothing_it_was_given(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        for number in (1, 3):
            await until_version(fleet, number)
            fleet.kill("reward-0")

    fleet = make_fleet(tmp_path)
    assert run(fleet, kill) == ""
    assert audit(fleet.run_dir.path).is_clean
    assert {step["loss_tokens"] for step in lines(fleet.run_dir.metrics)} == {64}


def test_a_restarted_learner_goes_on_from_its_checkpoint_with_the_same_batches(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 5)
        fleet.kill("learner-0")

    fleet = make_fleet(tmp_path, stop__policy_versions=8)
    assert run(fleet, kill) == ""
    before, after = fleet.train_engines
    trained_before = {batch.plan.plan_number: batch.plan.sequences for batch in before.batches}
    trained_after = {batch.plan.plan_number: batch.plan.sequences for batch in after.batches}
    assert min(trained_after) == 4, "the checkpoint of version 3 covers plans up to 3"
    for number in trained_before.keys() & trained_after.keys():
        assert [one.interval for one in trained_before[number]] == [one.interval for one in trained_after[number]]
    assert {(step["incarnation"], step["policy_version"]) for step in lines(fleet.run_dir.metrics)} >= {
        (1, number) for number in range(4, 9)
    }
    assert audit(fleet.run_dir.path).is_clean


def test_synchronous_training_alternates(tmp_path: Path):
    fleet = make_fleet(tmp_path, mode="sync")
    assert run(fleet) == ""
    steps = lines(fleet.run_dir.metrics)
    assert {step["staleness_max"] for step in steps} == {0}
    assert {step["loss_tokens"] for step in steps} == {64}


def test_pause_stops_the_versions_and_resume_goes_on(tmp_path: Path):
    reached = []

    async def pause(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        await fleet.controller.pause()
        await asyncio.sleep(20.0)
        reached.append(fleet.controller.status().plain()["policy_version"])
        await asyncio.sleep(60.0)
        reached.append(fleet.controller.status().plain()["policy_version"])
        await fleet.controller.resume()

    assert run(make_fleet(tmp_path), pause) == ""
    assert reached[0] == reached[1] < 6


def test_divergence_ends_the_run_with_its_reason(tmp_path: Path):
    fleet = make_fleet(tmp_path, make_train_engine=lambda: ScriptedTrainEngine(diverges_at=3))
    assert "DivergedError" in run(fleet)
    assert json.loads(fleet.run_dir.outcome.read_text())["failure"].startswith("learner-0: DivergedError")


def test_shut_down_and_resume_continue_the_count(tmp_path: Path):
    async def stop(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        fleet.controller.shut_down("test", deadline_s=20.0)

    first = make_fleet(tmp_path)
    assert run(first, stop) == ""
    reached = json.loads(first.run_dir.outcome.read_text())["policy_version"]
    assert 2 <= reached < 6
    second = make_fleet(tmp_path, is_resumed=True)
    assert run(second) == ""
    assert [batch.plan.plan_number for batch in second.train_engines[0].batches] == list(range(reached + 1, 7))
    assert audit(second.run_dir.path).is_clean


class Mistaken(EvenTotal):
    """Declares a golden case that it does not fulfil itself."""

    def golden_cases(self):
        return [GoldenCase(make_prompt("odd total"), Response("1"), 1.0)]


def test_a_verifier_whose_golden_cases_fail_never_judges_and_the_run_says_which(tmp_path: Path):
    fleet = make_fleet(tmp_path, verifiers={"exact": {"use": f"{__file__}:Mistaken"}})
    failure = run(fleet)
    assert "ConfigError: verifiers.exact: golden case 0: odd total: reward 0, declared 1" in failure
    assert not lines(fleet.run_dir.metrics)


class Broken(ScriptedVerifier):
    """Cannot judge anything."""

    def __init__(self) -> None:
        super().__init__(failures=["crash"] * 10_000)


def test_a_failing_verifier_pauses_its_domain_and_the_rest_trains_on(tmp_path: Path):
    fleet = make_fleet(
        tmp_path,
        stop__policy_versions=12,
        sources={
            "sums": {"task": "chain_sum", "verifier": "exact"},
            "poems": {"task": "chain_sum", "verifier": "broken"},
        },
        mixture={"sums": 1.0, "poems": 1.0},
        verifiers={"exact": {"use": EVEN_TOTAL}, "broken": {"use": f"{__file__}:Broken"}},
    )
    assert run(fleet) == ""
    paused = [event for event in lines(fleet.run_dir.events) if event["kind"] == "domain_paused"]
    assert [event["sources"] for event in paused] == [["poems"]]
    assert "crash" in paused[0]["reason"]
    assert {name for step in lines(fleet.run_dir.metrics) for name in step.get("reward_by_source", {})} == {"sums"}
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


def test_a_run_none_of_whose_domains_can_be_judged_fails_and_says_so(tmp_path: Path):
    fleet = make_fleet(tmp_path, verifiers={"exact": {"use": f"{__file__}:Broken"}})
    assert "every source is paused" in run(fleet)


def test_a_version_that_cannot_be_staged_is_passed_over(tmp_path: Path):
    fleet = make_fleet(tmp_path)
    stage, failed = fleet.weights.stage, []

    def sometimes(announcement: WeightsAnnouncement) -> StagedWeights:
        if announcement.policy_version.number in {2, 3} and len(failed) < 3:
            failed.append(announcement.policy_version.number)
            raise WeightsError("retired")
        return stage(announcement)

    fleet.weights.stage = sometimes
    assert run(fleet) == ""
    assert failed, "no version failed to stage"
    assert not [event for event in lines(fleet.run_dir.events) if event["kind"] == "actor_lost"]


def test_a_run_may_end_by_the_clock(tmp_path: Path):
    fleet = make_fleet(tmp_path, stop__policy_versions=100_000, stop__wall_s=8.0)
    assert run(fleet) == ""
    outcome = json.loads(fleet.run_dir.outcome.read_text())
    assert outcome["reason"].startswith("stop.wall_s")
    assert Path(outcome["checkpoint"]).name == f"0.{outcome['policy_version']}"


def test_batches_over_several_shards_are_exactly_phi(tmp_path: Path):
    fleet = make_fleet(tmp_path, replay__num=3, replay__max_staleness=2)
    assert run(fleet) == ""
    steps = lines(fleet.run_dir.metrics)
    assert [step["policy_version"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step["loss_tokens"] for step in steps} == {64}
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    trained_in = {shard for shard, plans in plans_by_shard(fleet).items() if plans}
    assert trained_in == {"replay-0", "replay-1", "replay-2"}


def test_a_dead_shard_pauses_only_its_part(tmp_path: Path):
    async def kill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        fleet.kill("replay-1")
        await until_version(fleet, 5)
        fleet.kill("replay-0")

    fleet = make_fleet(tmp_path, replay__num=2, stop__policy_versions=8)
    assert run(fleet, kill) == ""
    steps = lines(fleet.run_dir.metrics)
    assert [step["policy_version"] for step in steps] == list(range(1, 9))
    assert {step["loss_tokens"] for step in steps} == {64}
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()


def plans_by_shard(fleet: OneProcessFleet) -> dict[str, set[int]]:
    """Numbers of the plans that took from each shard."""
    store = ReplayStore(fleet.run_dir.replay / "replay-0", 16 << 20, is_readonly=True)
    num_shards = fleet.config.replay.num
    found: dict[str, set[int]] = {f"replay-{index}": set() for index in range(num_shards)}
    with store.read() as reader:
        for entry in reader.plans_after(0):
            for sequence in entry.plan.sequences:
                found[shard_of(sequence.trajectory_id.rpartition("/")[0], num_shards)].add(entry.plan.plan_number)
    store.close()
    return found


def test_replay_hears_of_the_checkpoint_made_while_it_was_away(tmp_path: Path):
    async def come_back() -> Message:
        config = make_config()
        run_dir = RunDir(tmp_path / "run")
        run_dir.create()
        hub = MemoryHub(config.transport)
        context = ActorContext(
            ActorSpec("controller-0", "controller", 0), config, run_dir, MemoryTransport("controller-0", hub), "",
            Tracer(None, "controller-0"),
        )  # fmt: skip
        controller = Controller(context, lambda name, _: CountingSource(name), is_resumed=False)
        living = asyncio.create_task(controller.live())
        transport = MemoryTransport("replay-0", hub)
        inbox = transport.open_inbox("control")
        link = transport.connect(controller.endpoint, peer="controller-0")
        for number in (7, 9):  # a learner may have to go back to 7, should 9 be damaged
            saved = CheckpointSaved(f"checkpoints/{number}", number, PolicyVersion(0, number))
            await link.request(saved, timeout_s=5.0)
        await link.request(Register(Member("replay-0", "replay", 0, 1, "host", inbox.endpoint)), timeout_s=5.0)
        while not isinstance(message := (delivery := await inbox.receive()).message, CheckpointCovered):
            delivery.reply(Done())
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        return message

    assert run_virtual(come_back(), limit_s=60.0) == CheckpointCovered(7)

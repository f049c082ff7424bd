"""One odd prompt, group, response or source fails itself, by name, and nothing else. Fleets on a virtual clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_process_run import EVEN_TOTAL, events, lines, records, run
from ring_async.actors import rollout as rollout_module
from ring_async.batches import PackedBatch
from ring_async.core.ids import split_id
from ring_async.core.rank_batches import RankShare
from ring_async.core.work.ledger_records import GroupReissued, StatesMoved
from ring_async.engines.base import GenerationRequest
from ring_async.errors import VerifierError
from ring_async.storage.audit import audit
from ring_async.testing import one_process
from ring_async.testing.builders import make_config, make_prompt
from ring_async.testing.one_process import CountingSource, OneProcessFleet
from ring_async.testing.scripted_engine import ScriptedEngine
from ring_async.testing.scripted_training import ScriptedTrainEngine
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.training.base import StepReport
from ring_async.types import Generation, Group, Prompt, Verdict
from ring_async.verifiers.base import Response

TWO_SOURCES = {
    "mixture": {"sums": 1.0, "letters": 1.0},
    "sources": {name: {"task": "chain_sum", "verifier": "exact"} for name in ("sums", "letters")},
}


def make_fleet(runs: Path, *, token_s: float = 0.05, **settings: Any) -> OneProcessFleet:
    shared = {
        "stop__policy_versions": 12,
        "budget__token_budget": 128,
        "rollout__group_size": 4,
        "rollout__max_running_requests": 16,
        "verifiers": {"exact": {"use": EVEN_TOTAL}},
        "replay__map_size_bytes": 16 << 20,
    }
    return OneProcessFleet(make_config(**(shared | settings)), runs, token_s=token_s)


def run_to_its_end(fleet: OneProcessFleet, **limits: float) -> dict[str, int]:
    """Run; nobody may die, and the account must hold. Returns how many trajectories ended, by cause."""
    assert run(fleet, **limits) == ""
    assert events(fleet, "actor_lost") == []
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    causes: dict[str, int] = fleet.controller.status().causes
    return causes


def refuse(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Have every engine refuse the prompts of groups whose ids begin so, as one refuses a prompt that is too long."""
    generate = ScriptedEngine.generate

    async def generate_or_refuse(self: ScriptedEngine, request: GenerationRequest) -> Generation:
        if request.request_id.startswith(prefix):
            raise ValueError(f"request {request.request_id}: 5,000 prompt tokens are more than 2,048 positions")
        return await generate(self, request)

    monkeypatch.setattr(ScriptedEngine, "generate", generate_or_refuse)


@pytest.mark.parametrize("num_rollouts", [1, 4])
def test_a_prompt_that_the_engine_refuses_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rollouts: int
):
    refuse(monkeypatch, "sums-00000003/")
    fleet = make_fleet(tmp_path, rollout__num=num_rollouts)
    causes = run_to_its_end(fleet)
    assert causes["dropped(prompt_refused)"] == 4
    assert not any(cause.startswith("failed") for cause in causes)
    (refused,) = events(fleet, "prompt_refused")
    assert refused["group_id"] == "sums-00000003"
    assert "5,000 prompt tokens" in refused["reason"]


def test_a_source_of_nothing_but_refused_prompts_is_set_aside_and_the_other_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refuse(monkeypatch, "letters-")
    fleet = make_fleet(tmp_path, **TWO_SOURCES)
    causes = run_to_its_end(fleet)
    assert causes["dropped(prompt_refused)"] >= 4 * 64
    (paused,) = events(fleet, "domain_paused")
    assert paused["sources"] == ["letters"]
    assert "64 prompts were refused one after another" in paused["reason"]


class Brittle(CountingSource):
    """Cannot make prompt 5 of `sums`, and none of `letters`."""

    def prompt(self, index: int) -> Prompt:
        if self.name == "letters" or index == 5:
            raise KeyError("ground_truth")
        return super().prompt(index)


def test_a_source_that_cannot_make_a_prompt_passes_it_over_and_one_that_makes_none_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(one_process, "CountingSource", Brittle)
    fleet = make_fleet(tmp_path, **TWO_SOURCES)
    run_to_its_end(fleet)
    (paused,) = events(fleet, "domain_paused")
    assert paused["sources"] == ["letters"]
    assert "KeyError: 'ground_truth'" in paused["reason"]


def spoiled(group: Group, what: str) -> Group:
    header = group.header
    if what == "segments":  # an engine that miscounted one response
        first, *others = header.trajectories
        (segment, *rest) = first.segments
        longer = msgspec.structs.replace(segment, end=segment.end + 1)
        first = msgspec.structs.replace(first, segments=(longer, *rest))
        header = msgspec.structs.replace(header, trajectories=(first, *others))
    else:
        header = msgspec.structs.replace(header, prompt=msgspec.structs.replace(header.prompt, source="unheard-of"))
    return dataclasses.replace(group, header=header)


@pytest.mark.parametrize("what", ["segments", "source"])
def test_a_malformed_group_fails_with_its_cause_and_reward_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    group_of = rollout_module.group_of

    def group_or_poison(reservation: Any, *arguments: Any, **options: Any) -> Group:
        group = group_of(reservation, *arguments, **options)
        return spoiled(group, what) if reservation.group_id == "sums-00000002" else group

    monkeypatch.setattr(rollout_module, "group_of", group_or_poison)
    fleet = make_fleet(tmp_path)
    causes = run_to_its_end(fleet)
    assert causes["failed(malformed)"] == 4
    assert fleet.controller.status().ledger.reissued == 2  # three tries in all
    (failed,) = events(fleet, "group_failed")
    assert (failed["group_id"], failed["cause"]) == ("sums-00000002", "malformed")


@pytest.mark.parametrize(("kib", "num_slots", "token_budget"), [(40, 256, 2048), (1100, 8, 64)])
def test_prompts_with_much_metadata_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kib: int, num_slots: int, token_budget: int
):
    """Unit tests of a code task: one prompt, or a rollout's reservations together, are over the header limit."""

    class Big(CountingSource):
        def prompt(self, index: int) -> Prompt:
            return make_prompt(f"{self.name}/{index}", source=self.name, text=f"{index} + 1 =", tests="x" * (kib << 10))

    monkeypatch.setattr(one_process, "CountingSource", Big)
    settings = {"rollout__max_running_requests": num_slots, "budget__token_budget": token_budget}
    fleet = make_fleet(tmp_path, stop__policy_versions=2, replay__map_size_bytes=256 << 20, **settings)
    assert not any(cause.startswith("failed") for cause in run_to_its_end(fleet))


class FailsAtFirst(ScriptedVerifier):
    """Cannot judge one prompt in ten when it is first asked (a time-out), and can from then on: a judge under load."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, response: sum(map(int, response.text.split())) % 2 == 0, delay_s=0.02)
        self._asked: set[str] = set()

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        is_first = prompt.prompt_id not in self._asked
        self._asked.add(prompt.prompt_id)
        if prompt.prompt_id.endswith("3") and is_first:
            raise VerifierError("timeout", "scripted")
        return await super().score(prompt, response)


def test_a_group_that_could_not_be_judged_is_judged_when_it_comes_again(tmp_path: Path):
    verifiers = {"exact": {"use": f"{__file__}:FailsAtFirst"}}
    fleet = make_fleet(tmp_path, verifiers=verifiers, stop__policy_versions=30)
    causes = run_to_its_end(fleet)
    assert not any(cause.startswith("failed") for cause in causes)
    written = list(records(fleet))
    retried = [record.group_id for record in written if isinstance(record, GroupReissued)]
    judged = {
        split_id(state.trajectory_id)[0]
        for record in written
        if isinstance(record, StatesMoved)
        for state in record.states
    }
    assert len(retried) > 5
    assert len(set(retried)) == len(retried)  # one retry was enough for each
    assert set(retried[:-2]) <= judged  # the last ones may be under way when the run ends


class CrashesOnMultiplesOfSeven(ScriptedVerifier):
    def __init__(self) -> None:
        super().__init__(self.reward, delay_s=0.02)

    def reward(self, prompt: Prompt, response: Response) -> bool:
        total = sum(map(int, response.text.split()))
        if total % 7 == 0:
            raise IndexError("list index out of range")
        return total % 2 == 0


def test_a_verifier_that_crashes_on_one_response_fails_that_response_and_not_its_group(tmp_path: Path):
    verifiers = {"exact": {"use": f"{__file__}:CrashesOnMultiplesOfSeven"}}
    fleet = make_fleet(tmp_path, verifiers=verifiers, stop__policy_versions=30)
    causes = run_to_its_end(fleet)
    assert causes["failed(unjudged)"] > 10
    assert events(fleet, "group_failed") == []
    assert events(fleet, "domain_paused") == []


def test_responses_that_take_longer_than_the_batch_deadline_are_trained_on(tmp_path: Path):
    """32k tokens at 60 a second take 546 s; the deadline is 300 s, and a batch needs two waves of them."""
    fleet = make_fleet(tmp_path, token_s=546 / 16, stop__policy_versions=3, budget__token_budget=256)
    causes = run_to_its_end(fleet, limit_s=20_000.0)
    assert not any(cause.startswith("failed") for cause in causes)


class FailsOnBatchFive(ScriptedTrainEngine):
    """Cannot train batch 5, whenever it comes: an index out of range in a kernel, say."""

    def train_batch(self, batch: PackedBatch, share: RankShare | None = None) -> StepReport:
        if batch.plan.plan_number == 5:
            raise IndexError("index 151936 is out of bounds")
        return super().train_batch(batch, share)


def test_a_batch_that_always_fails_in_the_learner_is_skipped_with_its_cause_on_record(tmp_path: Path):
    fleet = make_fleet(tmp_path, stop__policy_versions=8, checkpoint__every_versions=3)
    fleet._make_train_engine = FailsOnBatchFive
    assert run(fleet) == ""
    assert [event["tries"] for event in events(fleet, "batch_failed")] == [1, 2, 3]
    (skipped,) = events(fleet, "batch_skipped")
    assert (skipped["plan_number"], skipped["cause"]) == (5, "IndexError: index 151936 is out of bounds")
    by_version = {line["policy_version"]: line for line in lines(fleet.run_dir.metrics)}
    assert (by_version[5]["loss_tokens"], by_version[5]["skipped"]) == (0, skipped["cause"])
    assert by_version[8]["loss_tokens"] == 128
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()

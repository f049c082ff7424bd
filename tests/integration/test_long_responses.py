"""Responses that take longer than deadlines and versions: they are waited for, carried on, and given up in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from one_process_run import lines, make_small_fleet, records, run
from ring_async.core.work.ledger_records import GroupReserved
from ring_async.engines.base import GenerationRequest
from ring_async.storage.audit import audit
from ring_async.telemetry import metrics
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_engine import Script, ScriptedResponse


def make_script(num_long: int, long_tokens: int) -> Script:
    """The first responses are long, and each is as long whenever its request is asked again; all others have 8."""
    long_seeds: set[int] = set()

    def respond(request: GenerationRequest) -> ScriptedResponse:
        if len(long_seeds) < num_long:
            long_seeds.add(request.seed)
        num_tokens = long_tokens if request.seed in long_seeds else 8
        ids = np.random.default_rng(request.seed).integers(1, 100, num_tokens, dtype=np.int32)
        return ScriptedResponse(ids, "stop")

    return respond


def make_fleet(runs: Path, script: Script, **settings: object) -> OneProcessFleet:
    shared = {"rollout__max_tokens": 64, "budget__token_budget": 64, "learner__token_capacity": 128}
    return make_small_fleet(runs, script=script, **(shared | settings))


def test_responses_longer_than_every_deadline_are_waited_for(tmp_path: Path) -> None:
    # 60 tokens of 20 s are 1,200 s; a lease lasts 60 s, a batch may be 300 s late, a peer's answer 30 s.
    fleet = make_fleet(tmp_path, make_script(10_000, 60), token_s=20.0, stop__policy_versions=2)
    assert run(fleet, limit_s=20_000.0) == ""
    steps = lines(fleet.run_dir.metrics)
    assert [step["policy_version"] for step in steps] == [1, 2]
    assert steps[0]["wall_s"] > 1_200
    assert not [event for event in lines(fleet.run_dir.events) if event["kind"] == "actor_lost"]
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    assert report.counts["failed"] == 0


def test_a_response_is_carried_on_over_versions_and_given_up_beyond_the_bound(tmp_path: Path) -> None:
    purged = metrics.rollout_purged_tokens._value.get()
    asked: list[tuple[int, bool]] = []
    script = make_script(1, 60)

    def respond(request: GenerationRequest) -> ScriptedResponse:
        response = script(request)
        if response.response_ids.size == 60:
            asked.append((request.seed, request.prefix is None))
        return response

    # A long response takes 60 s, and versions come every second or two: it is purged again and again.
    fleet = make_fleet(tmp_path, respond, token_s=1.0, stop__policy_versions=20, replay__max_staleness=2)
    assert run(fleet) == ""
    assert metrics.rollout_purged_tokens._value.get() > purged
    assert len({seed for seed, _ in asked}) == 1
    assert len(asked) > 1
    assert all(is_anew for _, is_anew in asked)
    assert max(step["staleness_max"] for step in lines(fleet.run_dir.metrics)) <= 2
    assert sum(isinstance(record, GroupReserved) for record in records(fleet)) > 0
    assert audit(fleet.run_dir.path).is_clean

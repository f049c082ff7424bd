"""What is said of runs in which something was planted, and of healthy ones: recordings of real fleets under a virtual
clock (`tests/support/planted_faults.py` makes them).
"""

from __future__ import annotations

import msgspec
import pytest

from planted_faults import PLANS, read
from ring_async.core.explain.explain import explain
from ring_async.core.explain.finding import Cause, Finding, Gravity
from ring_async.core.explain.history import History, Limits
from ring_async.core.explain.utilisation import utilisation

FAULTY = sorted(name for name, plan in PLANS.items() if plan.cause)
HEALTHY = sorted(name for name, plan in PLANS.items() if not plan.cause)


def until(history: History, seconds: float) -> History:
    """The same run as it was known `seconds` after its beginning."""
    end = history.samples[0].time + seconds
    parts = {name: tuple(o for o in getattr(history, name) if o.time <= end) for name in ("samples", "steps", "events")}
    return msgspec.structs.replace(history, **parts)


@pytest.mark.parametrize("name", FAULTY)
def test_the_planted_cause_is_named_first(name: str):
    found = explain(read(name))
    assert found, "nothing is said"
    assert str(found[0].cause) == PLANS[name].cause
    assert found[0].what.endswith(".")
    assert found[0].remedy


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_run_at_any_time(name: str):
    history = read(name)
    said = {at: explain(until(history, at)) for at in range(0, 500, 20)}
    assert {at: found for at, found in said.items() if found} == {}


@pytest.mark.parametrize("name", FAULTY)
def test_nothing_is_said_before_it_was_planted(name: str):
    if PLANS[name].is_from_the_start:
        pytest.skip("this run has its fault from the start")
    assert explain(until(read(name), 195.0)) == ()


def test_a_slow_verifier_is_named_with_its_actor_its_epoch_and_the_way_back():
    [first, *_] = explain(read("slow_verifier"))
    assert "judges" in first.what
    assert "slower since verifier exact epoch 1" in first.what
    assert first.what.startswith("The learner waited")
    assert first.who.startswith("reward-")
    assert "ring-async rollback verifier exact" in first.remedy


def test_the_share_that_the_learner_waited_is_said_once():
    for name in FAULTY:
        said = " ".join(finding.what for finding in explain(read(name)))
        assert said.count("The learner waited") <= 1, name


def test_faults_come_before_symptoms_and_tips_alone():
    for name in FAULTY:
        gravities = [finding.gravity for finding in explain(read(name))]
        assert gravities == sorted(gravities)
        assert set(gravities) == {Gravity.TIP} or Gravity.TIP not in gravities


def test_nothing_is_known_of_nothing():
    assert explain(History(limits=Limits())) == ()


def test_one_sample_proves_no_rate():
    history = read("slow_verifier")
    alone = msgspec.structs.replace(history, samples=history.samples[-1:], steps=(), events=())
    assert explain(alone) == ()


def test_a_figure_that_is_missing_silences_its_rule_and_no_other():
    history = read("stale_weights")
    bare = msgspec.structs.replace(
        history,
        samples=tuple(
            msgspec.structs.replace(
                sample,
                ledger={}, causes={}, scored={},
                actors=tuple(
                    msgspec.structs.replace(
                        actor, figures={k: v for k, v in actor.figures.items() if k == "policy_version"}
                    )
                    for actor in sample.actors
                ),
            )
            for sample in history.samples
        ),
    )  # fmt: skip
    assert [finding.cause for finding in explain(bare)] == [Cause.STALE_WEIGHTS]


def test_every_actors_time_adds_up():
    for name in ("healthy_00", "slow_verifier", "stale_weights"):
        divided = utilisation(read(name))
        assert {one.role for one in divided} >= {"rollout", "reward", "replay", "learner"}
        for one in divided:
            assert sum(one.parts.values()) == pytest.approx(1.0), one


def test_the_stale_rollout_works_less_than_the_fresh_one():
    parts = {one.actor_id: one.parts for one in utilisation(read("stale_weights"))}
    assert parts["rollout-1"]["work"] < 0.6 < parts["rollout-0"]["work"]


def test_a_finding_is_a_sentence_with_its_remedy():
    finding = Finding(cause=Cause.PAUSED, gravity=Gravity.FAULT, what="It is paused.", remedy="Resume.")
    assert finding.sentence == "It is paused. Resume."

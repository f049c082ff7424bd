"""What is said of runs in which something was planted, and of healthy ones: recordings of real fleets under a virtual
clock (`tests/support/planted_faults.py` makes them).
"""

from __future__ import annotations

import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planted_faults import PLANS, read, until
from ring_async.core.explain.explain import RULES, explain
from ring_async.core.explain.finding import Cause, Finding, Gravity
from ring_async.core.explain.history import Happening, History, Limits
from ring_async.core.explain.utilisation import utilisation
from ring_async.core.explain.view import View
from ring_async.core.roster import Role

FAULTY = sorted(name for name, plan in PLANS.items() if plan.cause)
HEALTHY = sorted(name for name, plan in PLANS.items() if not plan.cause)


@pytest.mark.parametrize("name", FAULTY)
def test_the_planted_cause_is_named_first(name: str):
    found = explain(read(name))
    assert found, "nothing is said"
    plan = PLANS[name]
    assert str(found[0].cause) == plan.cause
    assert set(plan.causes) <= {str(one.cause) for one in found}
    assert plan.who in {"", *(one.who for one in found)}
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


# -- what no recording holds: a healthy one in which figures are changed


def changed(history: History, last: int | None = None, **fields) -> History:
    """The history with other fields in its last samples (None: all)."""
    first = 0 if last is None else len(history.samples) - last
    samples = [
        msgspec.structs.replace(sample, **fields) if index >= first else sample
        for index, sample in enumerate(history.samples)
    ]
    return msgspec.structs.replace(history, samples=tuple(samples))


def with_figures(history: History, role: str, change) -> History:
    """The history with the figures of a role's actors changed: `change(index of the sample, figures)`."""
    samples = tuple(
        msgspec.structs.replace(
            sample,
            actors=tuple(
                msgspec.structs.replace(one, figures=change(index, dict(one.figures))) if one.role == role else one
                for one in sample.actors
            ),
        )
        for index, sample in enumerate(history.samples)
    )
    return msgspec.structs.replace(history, samples=samples)


def first_cause(history: History) -> str:
    return str(explain(history)[0].cause)


def test_a_disk_that_is_almost_full_is_named_with_what_is_left():
    [finding] = explain(changed(read("healthy_00"), disk_free_bytes=5 * 10**9, disk_total_bytes=1000 * 10**9))
    assert finding.cause == Cause.FULL_DISK
    assert "5.0 of 1000 GB are left" in finding.what


def test_reward_actors_that_judge_too_much_at_once_are_told_from_slow_ones():
    history = read("healthy_00")
    half = len(history.samples) // 2

    def overload(index: int, figures: dict[str, float]) -> dict[str, float]:
        at_half = next(
            one.figures.get("busy_s", 0.0) for one in history.samples[half].actors if one.role == "reward"
        )  # fmt: skip
        grown = figures.get("busy_s", 0.0)
        return figures | {"busy_s": grown if index <= half else at_half + 8 * max(0.0, grown - at_half)}

    [finding] = explain(with_figures(history, "reward", overload))
    assert finding.cause == Cause.OVERLOADED_REWARD
    assert "reward.credits" in finding.remedy


def test_an_engine_that_disagrees_with_the_learner_is_named():
    history = read("healthy_00")
    steps = tuple(msgspec.structs.replace(step, mismatch_kl=0.2) for step in history.steps)
    [finding] = explain(msgspec.structs.replace(history, steps=steps))
    assert finding.cause == Cause.MISMATCH
    assert "0.2 nats" in finding.what


@pytest.mark.parametrize(
    ("reason", "cause"),
    [("learner-0: DivergedError: the loss is nan", Cause.DIVERGED), ("rollout-0: gone", Cause.RUN_FAILED)],
)
def test_the_reason_of_a_failure_is_said(reason: str, cause: Cause):
    history = read("healthy_00")
    failed = Happening(time=history.samples[-1].time, kind="failed", details={"reason": reason})
    ended = changed(msgspec.structs.replace(history, events=(*history.events, failed)), last=1, state="failed")
    assert first_cause(ended) == cause
    assert reason in explain(ended)[0].what


def test_an_actor_that_is_not_heard_is_named():
    history = read("healthy_00")
    newest = history.samples[-1]
    actors = tuple(
        msgspec.structs.replace(one, silent_s=40.0) if one.actor_id == "rollout-0" else one for one in newest.actors
    )
    [finding] = explain(changed(history, last=1, actors=actors))
    assert (finding.cause, finding.who) == (Cause.DEAD_ACTOR, "rollout-0")
    assert "has not been heard for 40 s" in finding.what


# -- figures of any kind


def _odd_figures(history: History, odd: dict[str, float], drop: str) -> History:
    def change(index: int, figures: dict[str, float]) -> dict[str, float]:
        return {name: odd.get(name, value) for name, value in figures.items() if name != drop}

    for role in Role:
        history = with_figures(history, role, change)
    return history


NUMBERS = st.sampled_from([0.0, -1.0, 1e-12, 1.0, 1e18])
FIGURES = (
    "busy_s",
    "verdicts",
    "generated_tokens",
    "running",
    "capacity",
    "policy_version",
    "pending_groups",
    "answered",
)


@given(
    name=st.sampled_from(["slow_verifier", "healthy_01", "stale_weights", "imbalance"]),
    odd=st.dictionaries(st.sampled_from(FIGURES), NUMBERS, max_size=4),
    drop=st.sampled_from(["", *FIGURES]),
    step=st.fixed_dictionaries({}, optional=dict.fromkeys(["step_s", "wait_batch_s", "publish_s", "entropy"], NUMBERS)),
)
@settings(max_examples=40, deadline=None)
def test_no_rule_fails_over_figures_of_any_size(name, odd, drop, step):
    history = _odd_figures(read(name), odd, drop)
    steps = tuple(msgspec.structs.replace(one, **step) for one in history.steps)
    view = View(msgspec.structs.replace(history, steps=steps))
    for rule in RULES:
        list(rule(view))


def test_a_rule_that_fails_silences_no_other(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def broken(view: View):
        raise ZeroDivisionError
        yield

    module = sys.modules["ring_async.core.explain.explain"]
    monkeypatch.setattr(module, "RULES", (broken, *RULES))
    assert first_cause(read("slow_verifier")) == Cause.SLOW_VERIFIER
    assert "the rule broken failed" in caplog.text

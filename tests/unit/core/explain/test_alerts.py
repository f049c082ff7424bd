"""Which findings become alerts, and when an alert is over."""

from __future__ import annotations

import pytest

from planted_faults import read, until
from ring_async.core.explain.alerts import CLEAR_AFTER, RAISE_AFTER, Alerts
from ring_async.core.explain.explain import explain
from ring_async.core.explain.finding import Cause, Finding, Gravity


def finding(cause: Cause = Cause.SLOW_VERIFIER, who: str = "reward-0", gravity: Gravity = Gravity.SYMPTOM) -> Finding:
    return Finding(cause=cause, gravity=gravity, who=who, what="It is slow.", remedy="Make it quick.")


def changes(*samples: list[Finding]) -> list[tuple[int, str, bool]]:
    """What is raised (True) and cleared, with the number of the sample."""
    alerts = Alerts()
    return [
        (number, notice.finding.who, notice.is_raised)
        for number, findings in enumerate(samples)
        for notice in alerts.observe(findings)
    ]


def test_a_finding_that_stays_is_raised_once_and_cleared_once():
    said = [[finding()]] * 20 + [[]] * 40
    assert changes(*said) == [(RAISE_AFTER - 1, "reward-0", True), (19 + CLEAR_AFTER, "reward-0", False)]


def test_what_is_said_for_a_moment_is_no_alert():
    assert changes([finding()], [], [finding()], [], [finding()], []) == []


def test_a_gap_does_not_end_an_alert_nor_raise_it_again():
    gap = [[]] * (CLEAR_AFTER - 1)
    assert changes(*[[finding()]] * RAISE_AFTER, *gap, [finding()], *gap) == [(RAISE_AFTER - 1, "reward-0", True)]


def test_each_actor_has_an_alert_of_its_own():
    both = [finding(), finding(who="reward-1")]
    assert [who for _, who, _ in changes(*[both] * RAISE_AFTER)] == ["reward-0", "reward-1"]


@pytest.mark.parametrize("cause", [Cause.PAUSED, Cause.RUN_FAILED, Cause.DIVERGED])
def test_what_has_an_event_of_its_own_is_no_alert(cause: Cause):
    assert changes(*[[finding(cause, gravity=Gravity.FAULT)]] * 9) == []


def test_a_tip_is_no_alert():
    assert changes(*[[finding(Cause.LEARNER_BOUND, gravity=Gravity.TIP)]] * 9) == []


def test_a_recorded_run_with_a_slow_verifier_raises_that_one_alert_first():
    history, alerts, raised = read("slow_verifier"), Alerts(), []
    for at in range(0, 510, 10):
        raised += [one.finding for one in alerts.observe(explain(until(history, at))) if one.is_raised]
    assert raised[0].cause == Cause.SLOW_VERIFIER
    assert len(raised) == len({(one.cause, one.who) for one in raised})

"""How many groups may be under way."""

import pytest

from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules, AdmissionState
from ring_async.errors import ConfigError
from ring_async.types import PolicyVersion


def make_limiter(state=None, **rules):
    defaults = {"token_budget": 1_000, "max_staleness": 4, "max_group_tokens": 200, "headroom": 0.0}
    return AdmissionLimiter(AdmissionRules(**(defaults | rules)), state)


def test_the_start_is_sized_by_half_the_longest_group():
    assert make_limiter().grantable(0).num_groups == 50  # (4 + 1) · 1,000 / 100


def test_running_groups_and_buffered_tokens_count():
    limiter = make_limiter()
    limiter.observe_group(100, has_signal=True)
    limiter.observe_buffer(3_000, next_plan_number=1)
    assert limiter.grantable(10).num_groups == 10
    blocked = limiter.grantable(20)
    assert blocked.num_groups == 0
    assert blocked.reason == "5,000 tokens buffered or under way, 5,000 allowed ahead of the learner"


def test_planned_batches_narrow_the_limit_and_versions_widen_it():
    limiter = make_limiter()
    limiter.observe_buffer(0, next_plan_number=3)
    assert limiter.limit_tokens == 3_000
    limiter.observe_version(PolicyVersion(0, 2))
    assert limiter.limit_tokens == 5_000


def test_groups_without_signal_are_made_up_for():
    limiter = make_limiter(AdmissionState(group_tokens=100.0, no_signal_share=0.5))
    assert limiter.grantable(0).num_groups == 100
    limiter.state.no_signal_share = 1.0
    assert limiter.grantable(0).num_groups == pytest.approx(500, abs=1)  # at most tenfold


def test_running_means_follow_what_ends():
    limiter = make_limiter()
    limiter.observe_group(120, has_signal=True)
    for _ in range(400):
        limiter.observe_group(60, has_signal=False)
    assert limiter.state.group_tokens == pytest.approx(60, abs=0.1)
    assert limiter.state.no_signal_share == pytest.approx(1.0, abs=0.01)


def test_the_synchronous_control_alternates():
    limiter = make_limiter(max_staleness=0)
    version = PolicyVersion(0, 0)
    assert limiter.grantable(0, version).num_groups == 10
    limiter.observe_buffer(1_050, next_plan_number=1)
    assert limiter.grantable(0, version).num_groups == 0  # enough is there
    limiter.observe_buffer(50, next_plan_number=2)
    assert limiter.grantable(0, version).num_groups == 0  # the learner trains
    limiter.observe_version(PolicyVersion(0, 1))
    limiter.observe_buffer(0, next_plan_number=2)
    stale = limiter.grantable(0, version)
    assert (stale.num_groups, "weights first" in stale.reason) == (0, True)
    assert limiter.grantable(0, PolicyVersion(0, 1)).num_groups == 10


def test_reuse_needs_fewer_groups():
    assert make_limiter(max_reuse=2).grantable(0).num_groups == 25


def test_headroom_is_kept_free_but_never_in_the_control():
    assert make_limiter(headroom=0.5).limit_tokens == 4_500
    assert make_limiter(headroom=0.5, max_staleness=0).limit_tokens == 1_000


def test_nothing_under_way_while_the_learner_waits_always_grants():
    limiter = make_limiter()
    limiter.observe_buffer(9_999, next_plan_number=1)
    assert limiter.grantable(0).num_groups == 0
    limiter.observe_buffer(9_999, next_plan_number=1, is_learner_waiting=True)
    assert limiter.grantable(0).num_groups == 1
    assert limiter.grantable(1).num_groups == 0


def test_a_bound_on_groups_holds():
    limiter = make_limiter(max_groups=8)
    assert limiter.grantable(0).num_groups == 8
    assert limiter.grantable(6).num_groups == 2
    assert "the most allowed" in limiter.grantable(8).reason


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_staleness": -1}, "nothing could ever be trained"),
        ({"max_buffer_tokens": 1_199}, "set at least 1,200"),
        ({"max_groups": 0}, "nothing would ever be generated"),
        ({"token_budget": 0}, "above 0"),
        ({"headroom": 1.5}, "between 0 and 1"),
    ],
)
def test_what_can_deadlock_is_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        make_limiter(**rules)


def test_a_refused_change_leaves_the_limiter_as_it_was():
    limiter = make_limiter()
    before = limiter.rules
    with pytest.raises(ConfigError):
        limiter.tune(max_buffer_tokens=10)
    assert limiter.rules == before
    limiter.tune(max_staleness=1)
    assert limiter.limit_tokens == 2_000


def test_the_state_survives_a_restart():
    state = AdmissionState(version_number=7, num_planned=8, group_tokens=80.0, no_signal_share=0.25)
    limiter = make_limiter(state)
    assert limiter.limit_tokens == 4_000
    assert limiter.expected_group_tokens == 60

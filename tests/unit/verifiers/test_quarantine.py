import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.verifiers.quarantine import Quarantine, QuarantinePolicy, VerifierQuarantined

POLICY = QuarantinePolicy(max_error_rate=0.5, window=8, min_verdicts=4)


def test_a_verifier_that_keeps_failing_is_quarantined_once():
    quarantine = Quarantine(POLICY)
    assert [quarantine.record("math", "v1", "timeout") for _ in range(3)] == [None] * 3
    decision = quarantine.record("math", "v1", "crash")
    assert decision == VerifierQuarantined("math", "v1", 1.0, 4, (("timeout", 3), ("crash", 1)))
    assert quarantine.record("math", "v1", "crash") is None
    assert quarantine.is_quarantined("math", "v1")
    assert quarantine.quarantined == (decision,)


def test_exactly_the_threshold_is_tolerated():
    quarantine = Quarantine(POLICY)
    for cause in (None, "timeout") * 4:
        assert quarantine.record("math", "v1", cause) is None
    assert quarantine.error_rate("math", "v1") == 0.5
    assert quarantine.record("math", "v1", "timeout") is not None  # a verdict left the window, a failure came


def test_old_failures_leave_the_window():
    quarantine = Quarantine(POLICY)
    quarantine.record("math", "v1", "timeout", count=3)
    quarantine.record("math", "v1", None, count=8)
    assert quarantine.error_rate("math", "v1") == 0.0


def test_verifiers_and_versions_are_told_apart():
    quarantine = Quarantine(POLICY)
    quarantine.record("math", "v1", "crash", count=8)
    assert not quarantine.is_quarantined("math", "v2")
    assert not quarantine.is_quarantined("code", "v1")
    assert quarantine.error_rate("code", "v1") == 0.0


def test_release_gives_a_clean_record():
    quarantine = Quarantine(POLICY)
    quarantine.record("math", "v1", "crash", count=8)
    assert quarantine.release("math", "v1")
    assert not quarantine.release("math", "v1")
    assert not quarantine.is_quarantined("math", "v1")
    assert quarantine.record("math", "v1", "crash") is None


@pytest.mark.parametrize(
    "settings", [{"max_error_rate": 1.0}, {"max_error_rate": -0.1}, {"min_verdicts": 65}, {"min_verdicts": 0}]
)
def test_thresholds_that_never_or_always_trip_are_refused(settings):
    with pytest.raises(ValueError, match="must be in"):
        QuarantinePolicy(**settings)


@given(st.lists(st.sampled_from([None, "timeout", "crash"]), max_size=60))
def test_decides_when_the_rate_first_passes_the_threshold(outcomes):
    quarantine = Quarantine(POLICY)
    decisions = [quarantine.record("math", "v1", outcome) for outcome in outcomes]
    expected = None
    for end in range(1, len(outcomes) + 1):
        window = outcomes[max(0, end - 8) : end]
        if len(window) >= 4 and sum(outcome is not None for outcome in window) / len(window) > 0.5:
            expected = end - 1
            break
    assert [index for index, decision in enumerate(decisions) if decision] == ([] if expected is None else [expected])

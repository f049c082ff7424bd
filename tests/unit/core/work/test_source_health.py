"""When a source is set aside."""

from ring_async.core.work.source_health import MAX_FAILURES_IN_A_ROW, SourceHealth


def fail(health, source, times):
    return [health.failed(source, "too long") for _ in range(times)]


def test_odd_prompts_are_passed_over_however_many_as_long_as_others_work():
    health = SourceHealth("prompts were refused")
    for _ in range(5):
        assert fail(health, "math", MAX_FAILURES_IN_A_ROW - 1) == [None] * (MAX_FAILURES_IN_A_ROW - 1)
        health.worked("math")


def test_a_source_that_only_fails_is_set_aside_by_itself():
    health = SourceHealth("prompts were refused")
    assert fail(health, "math", MAX_FAILURES_IN_A_ROW)[-1] == (
        "64 prompts were refused one after another, the last: too long"
    )
    assert fail(health, "code", 1) == [None]

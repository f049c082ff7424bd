"""When a run has been without a batch for too long, and the sentence that says why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.fleet.batch_watch import MAX_STEP_S, BatchWatch, Signs


def watched(*steps: tuple[float, bool, bool], deadline_s: float = 10.0) -> BatchWatch:
    """A watch that was asked at these times: (seconds since the last time, is starved, is excused)."""
    watch, now_s = BatchWatch(deadline_s), 0.0
    watch.observe(now_s, is_starved=True, is_excused=False)
    for step_s, is_starved, is_excused in steps:
        now_s += step_s
        watch.observe(now_s, is_starved=is_starved, is_excused=is_excused)
    return watch


def test_only_time_without_a_batch_and_without_an_excuse_counts():
    watch = watched((0.5, True, False), (0.5, False, False), (0.5, True, True), (0.25, True, False))
    assert watch.waited_s == 0.75
    assert not watch.is_over


def test_a_batch_starts_the_time_again():
    watch = watched(*[(0.5, True, False)] * 30)
    assert watch.is_over
    watch.trained({})
    assert not watch.is_over


def test_a_controller_that_stood_still_counts_a_moment():
    assert watched((3600.0, True, False)).waited_s == MAX_STEP_S


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.booleans(), st.booleans())))
def test_never_more_than_the_time_that_passed(steps: list[tuple[float, bool, bool]]):
    watch = watched(*steps)
    counted = (min(step_s, MAX_STEP_S) for step_s, is_starved, is_excused in steps if is_starved and not is_excused)
    assert watch.waited_s <= sum(counted) + 1e-6


def test_the_cause_names_what_became_of_the_responses_since_the_last_batch():
    watch = BatchWatch(300.0)
    watch.trained({"dropped(no_signal)": 8, "retired": 64})
    no_signal = watch.why("batch 5 from replay-0", {"dropped(no_signal)": 648, "retired": 64})
    assert no_signal.startswith(
        "replay.batch_deadline_s: no batch was trained for 300 s; the learner waits for batch 5"
    )
    assert "no signal: all rewards equal within each of the groups judged meanwhile, 640 responses" in no_signal
    mixed = watch.why("batch 5", {"dropped(no_signal)": 16, "evicted(stale)": 4, "retired": 64})
    assert mixed.endswith("responses that ended meanwhile: 8 dropped(no_signal), 4 evicted(stale)")
    assert "no response ended meanwhile" in watch.why("batch 5", {"dropped(no_signal)": 8, "retired": 64})


def signs_over(*seen: Signs, deadline_s: float = 2.0) -> BatchWatch:
    """A starved watch that was shown these signs, half a second apart."""
    watch = BatchWatch(deadline_s)
    for number, signs in enumerate(seen):
        watch.observe(number / 2, is_starved=True, is_excused=False, signs=signs)
    return watch


def test_responses_may_take_longer_than_the_deadline_while_tokens_are_sampled():
    sampling = [Signs(generated_tokens=10 * number, num_under_way=16) for number in range(40)]
    assert not signs_over(*sampling).is_over
    assert signs_over(*sampling, *[sampling[-1]] * 6).is_over, "then the engines stood still"


def test_a_buffer_that_grows_brings_a_batch_nearer():
    growing = [Signs(0, buffer_tokens=number, num_under_way=16) for number in range(40)]
    assert not signs_over(*growing).is_over
    assert signs_over(*growing, *[growing[-1]] * 6).is_over


def test_sampling_in_vain_ends_the_run_once_as_much_was_lost_as_is_under_way():
    sampled = [Signs(10 * number, 0, num_lost=number, num_under_way=16) for number in range(40)]
    assert not signs_over(*sampled[:16]).is_over
    assert signs_over(*sampled[:17]).is_over


def test_what_was_lost_before_the_watch_began_is_not_in_vain():
    """A run that is resumed, or whose controller restarted, has lost responses before."""
    sampled = [Signs(10 * number, 0, num_lost=5_000, num_under_way=16) for number in range(40)]
    assert not signs_over(*sampled).is_over

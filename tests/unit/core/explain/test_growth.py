"""Totals that begin anew, and figures that nobody reported."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.explain.growth import actors_of, figure_growth, growth, seconds_a_unit, share_waiting, span_s
from ring_async.core.explain.history import ActorSample, Sample


def make_actor(**fields) -> ActorSample:
    return ActorSample(**({"actor_id": "reward-0", "role": "reward"} | fields))


def test_a_total_that_fell_began_anew():
    assert growth([5.0, 8.0, 2.0, 3.0]) == 3.0 + 2.0 + 1.0


@given(st.lists(st.lists(st.integers(0, 50), min_size=1), min_size=1))
def test_growth_is_what_all_processes_added_up(lives: list[list[int]]):
    totals, added = [0], 0
    for life in lives:
        total = 0
        for more in life:
            total += more
            is_seen_as_new = total < totals[-1]
            added += total if is_seen_as_new else total - totals[-1]
            totals.append(total)
    assert growth(totals) == added


def test_what_nobody_reported_is_unknown():
    assert figure_growth([], "busy_s") is None
    assert figure_growth([make_actor(figures={"busy_s": 1.0})], "busy_s") is None
    assert seconds_a_unit([make_actor(), make_actor()], "busy_s", "verdicts") is None


def test_the_pace_of_an_actor_that_did_nothing_is_unknown():
    idle = [make_actor(figures={"busy_s": 1.0, "verdicts": 4.0})] * 2
    assert seconds_a_unit(idle, "busy_s", "verdicts") is None
    busy = [*idle, make_actor(figures={"busy_s": 3.0, "verdicts": 8.0})]
    assert seconds_a_unit(busy, "busy_s", "verdicts") == 0.5


def test_only_present_actors_count():
    gone, here = make_actor(actor_id="reward-1"), make_actor()
    samples = [Sample(time=0.0, uptime_s=0.0, actors=(gone, here)), Sample(time=9.0, uptime_s=9.0, actors=(here,))]
    assert list(actors_of(samples, "reward")) == ["reward-0"]
    assert span_s(samples) == 9.0


def test_waits_are_counted_by_their_cause():
    waits = [make_actor(wait="commit"), make_actor(wait="group"), make_actor(), make_actor(wait="commit")]
    assert share_waiting(waits, "commit") == 0.5

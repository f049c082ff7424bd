"""Windows, the numbers that prompts carry, and what was observed of prompts that come again."""

from __future__ import annotations

import pytest

from ring_async.core.work import difficulty
from ring_async.core.work.difficulty import (
    BELIEVED_ROUNDS,
    Observations,
    Window,
    carried,
    carried_numbers,
    observed_difficulty,
)
from ring_async.testing.builders import make_prompt


def test_both_bounds_lie_within():
    window = Window("terms", 2, 4)
    assert [window.admits(value) for value in (1.9, 2, 3, 4, 4.1)] == [False, True, True, True, False]
    assert Window("terms", low=2).admits(1e9)
    assert Window("terms", high=4).admits(-1e9)


def test_an_unknown_difficulty_is_tried_only_where_trying_makes_it_known():
    assert Window("observed", 0.2, 0.8).admits(None)
    assert not Window("terms", 2, 4).admits(None)


def test_a_row_carries_the_numbers_in_its_columns():
    prompt = make_prompt(pass_rate=0.25, difficulty=3, answer="4", is_hard=True, level=float("nan"))
    assert carried_numbers(prompt) == {"pass_rate": 0.25, "difficulty": 3.0}
    assert carried(prompt, "answer") is None


def test_a_reasoning_gym_entry_carries_its_own_numbers_before_those_of_its_task():
    noted = {"num_terms": 3, "difficulty": {"num_terms": [2, 6], "steps": 5, "level": 1}, "level": 2}
    prompt = make_prompt(task="chain_sum", entry={"question": "?", "metadata": noted})
    assert carried_numbers(prompt) == {"num_terms": 3.0, "steps": 5.0, "level": 2.0}


def test_observed_difficulty_is_the_share_not_earned():
    assert observed_difficulty([1.0, 0.0, 0.0, 0.0]) == 0.75
    assert observed_difficulty([1.0, None]) is None
    assert observed_difficulty([]) is None


def test_an_observation_is_believed_for_some_rounds_of_its_source():
    seen = Observations()
    seen.note("p", 7, 1.0)
    last = 7 + BELIEVED_ROUNDS * 10
    assert seen.difficulty("p", last, num_prompts=10) == 1.0
    assert seen.difficulty("p", last + 10, num_prompts=10) is None
    assert seen.difficulty("q", 8, num_prompts=10) is None


def test_the_group_that_was_issued_last_counts_though_an_earlier_one_is_judged_later():
    seen = Observations()
    seen.note("p", 17, 0.5)
    seen.note("p", 7, 1.0)
    assert seen.difficulty("p", 20, num_prompts=10) == pytest.approx(0.5)


def test_memory_is_bounded_and_what_is_known_is_kept_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(difficulty, "MAX_OBSERVED", 2)
    seen = Observations()
    assert [seen.note(name, 0, 1.0) for name in "pqr"] == [True, True, False]
    assert seen.note("p", 10, 0.5)
    assert not seen.note("p", 9, 0.0)
    assert [seen.difficulty(name, 11, num_prompts=10) for name in "pqr"] == [0.5, 1.0, None]

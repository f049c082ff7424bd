"""Only prompts within the window are found; the search is bounded, and an empty window is refused or given up."""

from __future__ import annotations

import pytest

from ring_async.actors.controller import prompt_search
from ring_async.actors.controller.prompt_search import MAX_IN_VAIN, MAX_LOOKS, PromptSearch
from ring_async.core.work.difficulty import Observations, Window
from ring_async.errors import ConfigError
from ring_async.testing.one_process import CountingSource

LAST_DIGIT = Window("last_digit", 2, 4)


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on time does not cut a search short, however busy the machine is."""
    monkeypatch.setattr(prompt_search, "monotonic_s", lambda: 0.0)


def make_search(window: Window | None = None, num_prompts: int | None = None) -> PromptSearch:
    return PromptSearch(CountingSource("sums", num_prompts), Observations(), window)


def indices(search: PromptSearch, num: int, cursor: int = 0) -> list[int]:
    found = []
    for _ in range(num):
        cursor, prompt = search.find(cursor)
        assert prompt is not None
        found.append(cursor)
        cursor += 1
    return found


def probe(search: PromptSearch, window: Window, index: int = 0) -> None:
    for _ in search.probe(window, index):
        pass


def test_without_a_window_every_prompt_is_next():
    assert indices(make_search(), 4, cursor=5) == [5, 6, 7, 8]


def test_prompts_outside_are_passed_over_and_counted():
    search = make_search(LAST_DIGIT)
    assert indices(search, 7) == [2, 3, 4, 12, 13, 14, 22]
    assert search.num_passed == 16


def test_the_same_cursor_finds_the_same_prompt_again():
    search = make_search(LAST_DIGIT)
    assert search.find(5) == search.find(5) == make_search(LAST_DIGIT).find(5)


def test_one_call_looks_at_a_bounded_number_of_prompts():
    search = make_search(Window("last_digit", 11, 12))
    assert search.find(0) == (MAX_LOOKS, None)
    assert search.find(MAX_LOOKS) == (2 * MAX_LOOKS, None)
    assert not search.is_empty


def test_a_window_that_no_prompt_satisfies_is_given_up_after_one_round():
    search = make_search(Window("last_digit", 11, 12), num_prompts=30)
    assert search.find(7) == (37, None)
    assert search.is_empty
    assert search.find(37) == (37, None)
    search.set_window(LAST_DIGIT)
    assert search.find(37)[0] == 42  # prompt 12 of the second round


def test_an_endless_source_is_given_up_too():
    search, cursor = make_search(Window("last_digit", 11, 12)), 0
    while not search.is_empty:
        cursor, _ = search.find(cursor)
    assert cursor == MAX_IN_VAIN


def test_prompts_that_were_always_or_never_solved_are_passed_over_until_that_is_too_long_ago():
    seen = Observations()
    search = PromptSearch(CountingSource("sums", 4), seen, Window("observed", 0.1, 0.9))
    assert indices(search, 4) == [0, 1, 2, 3]
    for number, difficulty in enumerate((0.0, 0.5, 1.0)):
        seen.note(f"sums/{number}", number, difficulty)
    assert indices(search, 6, cursor=4) == [5, 7, 9, 11, 13, 15]  # the middle one, and one that was never judged
    assert indices(search, 4, cursor=16) == [16, 17, 18, 19]  # the fifth round asks all again


def test_where_all_were_solved_they_are_asked_again_rather_than_none():
    seen = Observations()
    for number in range(4):
        seen.note(f"sums/{number}", number, 0.0)
    search = PromptSearch(CountingSource("sums", 4), seen, Window("observed", 0.1, 0.9))
    assert search.find(4) == (8, None)
    assert search.is_empty
    assert search.find(8)[0] == 16


def test_a_window_is_checked_before_it_is_in_force():
    probe(make_search(num_prompts=30), LAST_DIGIT, 5)
    probe(make_search(num_prompts=30), Window("observed", 0.2, 0.8))
    with pytest.raises(ConfigError, match=r"difficulty\.sums: none of its 30 prompts .* last_digit 11:12; .*0 to 9"):
        probe(make_search(num_prompts=30), Window("last_digit", 11, 12))
    with pytest.raises(ConfigError, match="none of the next 4,096 prompts"):
        probe(make_search(), Window("last_digit", 11, 12))
    with pytest.raises(ConfigError, match="carry no number called 'difficulty'; numbers they carry are last_digit"):
        probe(make_search(), Window(low=1))
    with pytest.raises(ConfigError, match="never come again"):
        probe(make_search(), Window("observed", 0.2, 0.8))

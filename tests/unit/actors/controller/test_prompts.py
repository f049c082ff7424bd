"""What windows do to groups, and what a resumed run keeps of them."""

from __future__ import annotations

from typing import Any

import pytest

from ring_async.actors.controller.prompts import PromptScheduler, group_seed
from ring_async.core.work.difficulty import Window
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import CountingSource

SECTION = {"task": "chain_sum", "verifier": "exact"}


def make_scheduler(**overrides: Any) -> PromptScheduler:
    sources = {"sums": SECTION, "letters": SECTION, "rows": SECTION | {"options": {"num_prompts": 6}}}
    settings: dict[str, Any] = {"sources": sources, "mixture": {"sums": 1.0}, "verifiers": {"exact": {"use": "math"}}}
    config = make_config(**(settings | overrides))
    return PromptScheduler(config, lambda name, section: CountingSource(name, **section.options))


def issued(scheduler: PromptScheduler, num: int) -> list[str]:
    reservations = [scheduler.next(set()) for _ in range(num)]
    return [reservation.group_id if reservation else "none" for reservation in reservations]


def groups(source: str, *indices: int) -> list[str]:
    return [f"{source}-{index:08d}" for index in indices]


def test_id_and_seed_follow_from_the_cursor_whatever_was_passed_over():
    scheduler = make_scheduler(difficulty={"sums": {"by": "last_digit", "low": 8}})
    reservation = scheduler.next(set())
    assert reservation is not None
    assert (reservation.group_id, reservation.prompt.text) == ("sums-00000008", "8 + 1 =")
    assert reservation.seed == group_seed(0, "sums", 8)
    assert issued(scheduler, 2) == groups("sums", 9, 18)


def test_a_source_without_a_prompt_within_leaves_its_turn_to_the_others():
    scheduler = make_scheduler(mixture={"rows": 1.0, "sums": 1.0})
    scheduler.set_mixture({}, {"rows": Window("last_digit", 8, 9)})
    told: list[tuple[str, Window, int]] = []
    scheduler.on_empty = lambda *news: told.append(news)
    assert issued(scheduler, 3) == groups("sums", 0, 1, 2)
    assert told == [("rows", Window("last_digit", 8, 9), 6)]
    assert scheduler.why_none() == ""
    scheduler.set_mixture({"rows": 1.0})
    assert issued(scheduler, 1) == ["none"]
    assert scheduler.why_none() == "no prompt within the difficulty window of rows (last_digit 8:9, 6 passed over)"
    scheduler.set_mixture({}, {"rows": None})
    assert issued(scheduler, 1) == groups("rows", 6)


def test_weights_and_windows_change_apart():
    scheduler = make_scheduler()
    scheduler.set_mixture({}, {"sums": Window("last_digit", 8, 9)})
    scheduler.set_mixture({"sums": 1.0, "letters": 1.0})
    assert scheduler.windows == {"sums": Window("last_digit", 8, 9)}
    assert scheduler.mixture.epoch == 2
    with pytest.raises(ConfigError, match=r"difficulty\.novels: no such source"):
        scheduler.set_mixture({"sums": 1.0}, {"novels": Window(low=1)})
    assert scheduler.mixture.epoch == 2


def test_a_configured_window_that_nothing_satisfies_is_refused_at_the_start():
    with pytest.raises(ConfigError, match=r"difficulty\.sums: none of the next"):
        make_scheduler(difficulty={"sums": {"by": "last_digit", "low": 10}})


def test_a_live_window_survives_unless_the_configuration_says_otherwise():
    configured = {"sums": {"by": "last_digit", "low": 8}, "letters": {"by": "last_digit", "low": 5}}
    scheduler = make_scheduler(difficulty=configured)
    scheduler.set_mixture({}, {"sums": Window("last_digit", 2, 3), "rows": Window("last_digit", 1, 1), "letters": None})
    issued(scheduler, 3)
    same = make_scheduler(difficulty=configured)
    same.restore(scheduler.snapshot(), {})
    assert same.windows == {"sums": Window("last_digit", 2, 3), "rows": Window("last_digit", 1, 1)}
    assert issued(same, 1) == issued(scheduler, 1) == groups("sums", 13)
    other = make_scheduler(difficulty=configured | {"sums": {"by": "last_digit", "low": 9}})
    other.restore(scheduler.snapshot(), {})
    assert other.windows["sums"] == Window("last_digit", 9)
    assert "letters" not in other.windows


def test_a_journal_of_before_there_were_windows_is_read():
    scheduler = make_scheduler()
    snapshot = {key: value for key, value in scheduler.snapshot().items() if "windows" not in key}
    again = make_scheduler(difficulty={"sums": {"by": "last_digit", "low": 8}})
    again.restore(snapshot, {})
    assert again.windows == {"sums": Window("last_digit", 8)}


def test_what_was_observed_is_remembered_of_prompts_that_come_again():
    scheduler = make_scheduler(mixture={"rows": 1.0, "sums": 1.0}, difficulty={"rows": {"by": "observed", "high": 0.9}})
    notes: dict[str, Any] = {}
    for _ in range(8):
        reservation = scheduler.next(set())
        assert reservation is not None
        if (seen := scheduler.observed(reservation, 1.0)) is not None:
            notes[seen[0]] = seen[1]
    assert notes == {f"observed/rows/{index}": [index, 1.0] for index in range(4)}
    again = make_scheduler(mixture={"rows": 1.0}, difficulty={"rows": {"by": "observed", "high": 0.9}})
    again.restore(scheduler.snapshot(), notes)
    assert issued(again, 4) == groups("rows", 4, 5, 10, 11)


def test_without_windows_a_question_for_work_makes_no_prompt():
    scheduler = make_scheduler(
        mixture={"sums": 1.0, "letters": 1.0}, difficulty={"sums": {"by": "last_digit", "low": 8}}
    )
    made: list[int] = []
    for search in scheduler._searches.values():
        search.source.prompt = made.append  # type: ignore[method-assign]
    assert scheduler.why_none() == ""
    assert not made

"""Every task of the installed reasoning-gym makes prompts under its own settings, or says why not."""

import json
from functools import lru_cache

import pytest

from ring_async.data.reasoning_gym import ReasoningGymSource
from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError
from tests.support.odd_answers import task_names

PREPARING = ("acre", "gsm_symbolic", "list_functions", "word_ladder")


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", task_names())
def test_a_task_makes_its_first_prompt(task: str) -> None:
    prompt = ReasoningGymSource("s", task).prompt(0)
    assert prompt.text.strip()
    assert not is_held_out(prompt.text)
    assert json.loads(json.dumps(prompt.metadata)) == prompt.metadata
    assert prompt.metadata["entry"]["question"] == prompt.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", PREPARING)
def test_a_task_that_prepares_its_entries_gives_the_same_prompt_from_any_side(task: str) -> None:
    far = 1 << 20
    source, again = ReasoningGymSource("s", task), ReasoningGymSource("s", task)
    forwards = [source.prompt(index) for index in (0, 5, far)]
    backwards = [again.prompt(index) for index in (far, 5, 0)]
    assert forwards == backwards[::-1]
    assert len({prompt.text for prompt in forwards}) == 3


def test_a_task_made_of_others_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="composite is made of other tasks; give each a source"):
        ReasoningGymSource("s", "composite")


def test_a_task_that_finds_no_entry_for_a_seed_goes_on_with_the_next() -> None:
    class OddOnly:
        """As word_ladder: it raises where it finds nothing, and counts as ended from then on."""

        def __init__(self) -> None:
            self.end = 1 << 20

        def __getitem__(self, place: int) -> dict:
            if place >= self.end or place % 2 == 0:
                self.end = min(self.end, place)
                raise IndexError(f"Dataset exhausted at index {place}")
            return {"question": f"question {place}", "answer": "1", "metadata": {}}

    source = ReasoningGymSource("s", "word_ladder")
    source._block = lru_cache(maxsize=2)(lambda block: OddOnly())
    places = (place for place in range(1, 256, 2) if not is_held_out(f"question {place}"))
    assert source.prompt(0).text == f"question {next(places)}"

"""Prompts by number: the same everywhere, and never the same question on both sides of the split."""

import json

import pytest

from ring_async.config.schema import SourceSection
from ring_async.data.reasoning_gym import ReasoningGymSource
from ring_async.data.registry import make_source
from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError

OPTIONS = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}


@pytest.fixture(scope="module")
def source() -> ReasoningGymSource:
    return ReasoningGymSource("sums", "chain_sum", OPTIONS)


def test_a_prompt_is_the_same_in_every_process(source: ReasoningGymSource) -> None:
    again = ReasoningGymSource("sums", "chain_sum", OPTIONS)
    assert [again.prompt(index) for index in (5, 0)] == [source.prompt(index) for index in (5, 0)]
    assert again.held_out(3) == source.held_out(3)
    assert source.prompt(5).prompt_id == "sums/train/5"
    assert source.held_out(5).prompt_id == "sums/held-out/5"


def test_no_question_is_on_both_sides_even_in_a_small_world(source: ReasoningGymSource) -> None:
    train = {source.prompt(index).text for index in range(400)}
    held_out = {source.held_out(index).text for index in range(200)}
    assert len(train) > 250
    assert len(held_out) > 80
    assert not train & held_out


def test_metadata_is_plain_and_holds_what_the_scorer_needs(source: ReasoningGymSource) -> None:
    prompt = source.prompt(1)
    assert json.loads(json.dumps(prompt.metadata)) == prompt.metadata
    assert prompt.metadata["task"] == "chain_sum"
    assert prompt.metadata["options"] == OPTIONS
    entry = prompt.metadata["entry"]
    assert entry["question"] == prompt.text
    assert int(entry["answer"]) == eval(entry["metadata"]["expression"])


@pytest.mark.parametrize("index", [-1, 1 << 24])
def test_an_index_outside_the_numbering_is_an_error(source: ReasoningGymSource, index: int) -> None:
    with pytest.raises(IndexError, match="source sums: no prompt"):
        source.prompt(index)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"task": "no_such_task"}, "no task 'no_such_task'; it has .*chain_sum"),
        ({"task": "chain_sum", "options": {"min_terms": 5, "max_terms": 2}}, "sources.s.options: chain_sum"),
        ({"task": "chain_sum", "options": {"colour": "red"}}, "sources.s.options: chain_sum.*colour"),
        ({"task": "chain_sum", "options": {"seed": 3}}, "remove seed"),
        ({"kind": "jsonl", "path": "/nowhere/at/all.jsonl"}, "no such file"),
        ({"kind": "instruction", "options": {"colour": "red"}}, "colour"),
    ],
)
def test_a_source_that_cannot_be_made_says_where(section: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_source("s", SourceSection(verifier="v", **section))


def test_a_task_with_too_few_questions_is_refused_not_looped_over() -> None:
    source = ReasoningGymSource("s", "chain_sum", OPTIONS)
    source._block = lambda block: [{"question": "the only one", "answer": "1", "metadata": {}}] * 256
    absent = source.prompt if is_held_out("the only one") else source.held_out
    with pytest.raises(ConfigError, match="too few different questions"):
        absent(0)

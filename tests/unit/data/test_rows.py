"""Rows of a file as prompts: columns, chats, answers, and the sentence about a row that is none."""

import datetime
import decimal

import pytest

from ring_async.data.rows import NoPromptError, prompt_of
from ring_async.types import ChatMessage, Prompt


def made(row: dict, **columns: str) -> Prompt:
    return prompt_of(row, "s/f:1", "s", columns)


@pytest.mark.parametrize("column", ["prompt", "question", "problem"])
def test_the_question_has_several_names(column: str) -> None:
    assert made({column: "2 + 3?", "answer": "5", "level": 2}) == Prompt(
        "s/f:1", "s", "2 + 3?", {"answer": "5", "level": 2}
    )


def test_verls_row_is_read_as_it_is() -> None:
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "2 + 3?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "5"},
        "extra_info": {"index": 7, "split": "train"},
    }
    prompt = made(row)
    assert (prompt.text, prompt.messages) == ("2 + 3?", ())
    assert prompt.metadata == {name: value for name, value in row.items() if name != "prompt"} | {"answer": "5"}


def test_a_map_names_what_travels_and_nothing_else_does() -> None:
    row = {"text": "2 + 3?", "reward_model": {"ground_truth": 5}, "extra_info": {"level": 3}, "image": b"\0"}
    prompt = made(row, prompt="text", answer="reward_model.ground_truth", level="extra_info.level")
    assert prompt == Prompt("s/f:1", "s", "2 + 3?", {"answer": 5, "level": 3})


def test_an_own_answer_goes_before_verls() -> None:
    assert made({"prompt": "?", "answer": "4", "ground_truth": "5"}).metadata["answer"] == "4"
    assert made({"prompt": "?", "answer": None, "ground_truth": "5"}).metadata["answer"] == "5"


def test_a_chat_keeps_its_turns_and_the_last_is_the_question() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "2 + 3?")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    prompt = made(row)
    assert prompt.text == "2 + 3?"
    assert prompt.messages == tuple(ChatMessage(*turn) for turn in turns)
    assert prompt.conversation == "system: Be brief.\n\nuser: Hi\n\nassistant: Hello\n\nuser: 2 + 3?"


def test_parts_of_text_are_joined_and_empty_fields_are_passed_over() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "3?"}]
    assert made({"prompt": [{"role": "user", "content": parts, "name": None, "tool_calls": []}]}).text == "2 + 3?"


@pytest.mark.parametrize("answer", [123456789012345678901234567890, -(1 << 63) - 1, 1 << 63])
def test_an_answer_of_more_than_64_bits_is_kept_exactly(answer: int) -> None:
    assert made({"prompt": "?", "answer": answer}).metadata == {"answer": str(answer)}


def test_dates_and_decimals_become_text() -> None:
    row = {"prompt": "?", "on": datetime.date(2024, 2, 29), "price": decimal.Decimal("3.50"), "pair": (1, 2)}
    assert made(row).metadata == {"on": "2024-02-29", "price": "3.50", "pair": [1, 2]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "has no text under prompt or question, nor under problem or messages; it has nothing"),
        ({"text": "?"}, "it has 'text': name the question's column in `columns`"),
        ({"prompt": 5}, "column prompt holds int; a text, or a list of chat messages"),
        ({"prompt": " \n"}, "column prompt is empty"),
        ({"prompt": "a \ud83d b"}, "column prompt: holds U+D83D, half of a character"),
        ({"prompt": "?", "note": ["ok", {"deep": "\udc00"}]}, "column note[1].deep: holds U+DC00"),
        ({"prompt": "?", "id": 1 << 64}, "column id: 18446744073709551616 fits into no 64-bit integer"),
        ({"prompt": "?", "id": [1 << 4000]}, "column id[0]: an integer of 4001 bits fits"),
        ({"prompt": "?", "level": float("inf")}, "column level: inf is not a number that JSON has"),
        ({"prompt": "?", "image": b"\0"}, "column image: bytes is no text, number, list or object; leave the column"),
        ({"prompt": "?", "deep": eval("[" * 40 + "]" * 40)}, "more than 32 lists"),
        ({"prompt": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "5"}]}, "not the assistant's"),
        ({"prompt": [{"from": "human", "value": "?"}]}, "column prompt[0] is no chat message"),
        ({"prompt": ["?"]}, "column prompt[0] is no chat message"),
        ({"prompt": [{"role": "user", "content": None}]}, "column prompt[0].content is no text"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0] is no text; models here"),
        ({"prompt": [{"role": "user", "content": "?", "tool_calls": [1]}]}, "has tool_calls; chat messages here"),
    ],
)
def test_a_row_that_is_no_prompt_says_why(row: dict, words: str) -> None:
    with pytest.raises(NoPromptError) as caught:
        made(row)
    assert words in str(caught.value)


@pytest.mark.parametrize(("columns", "words"), [({"prompt": "q"}, "no column q"), ({"answer": "a.b"}, "no column a.b")])
def test_a_map_to_a_column_that_is_absent_is_refused(columns: dict, words: str) -> None:
    with pytest.raises(NoPromptError, match=words):
        made({"prompt": "?", "a": 1}, **columns)

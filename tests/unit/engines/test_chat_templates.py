"""Chats rendered with the model's own template: the ids are transformers' own, and an odd chat says what is wrong.

The templates are written after the families of Qwen, Llama, Mistral and Gemma: the same marks, the same branches.
"""

from pathlib import Path

import pytest

from ring_async.engines.tokenizer import chat_option_problems, encode_prompt, load_tokenizer
from ring_async.errors import PromptRefusedError
from ring_async.models import resolve_model_path
from ring_async.types import ChatMessage, Prompt

TEMPLATES = {
    file.stem: file.read_text() for file in sorted((Path(__file__).parents[2] / "support" / "chat_templates").glob("*"))
}
CHATML = TEMPLATES["chatml"]

QUESTION = ChatMessage("user", "What is 2 + 3? ")
CHATS = {
    "text": (),
    "system": (ChatMessage("system", "Answer with a number — nothing else."), QUESTION),
    "turns": (ChatMessage("user", "Hi"), ChatMessage("assistant", "Hello, ä 日本."), QUESTION),
}


@pytest.fixture(scope="module")
def shipped():
    return load_tokenizer(resolve_model_path("builtin:tiny"))


def asking(messages: tuple[ChatMessage, ...]) -> Prompt:
    return Prompt("chat/1", "chat", QUESTION.content, {}, messages)


@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", ["shipped", *TEMPLATES])
def test_token_ids_are_those_of_transformers(shipped, monkeypatch, template: str, chat: str, options: dict) -> None:
    monkeypatch.setattr(shipped, "chat_template", TEMPLATES.get(template, shipped.chat_template))
    turns = [{"role": one.role, "content": one.content} for one in CHATS[chat] or (QUESTION,)]
    if (template, chat) == ("turns", "system"):
        with pytest.raises(PromptRefusedError, match="chat/1: the model's chat template refuses it: System role"):
            encode_prompt(shipped, asking(CHATS[chat]), options)
        return
    theirs = shipped.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **options)
    assert encode_prompt(shipped, asking(CHATS[chat]), options).tolist() == theirs


def test_what_a_chat_becomes_is_the_template_word_for_word(shipped, monkeypatch) -> None:
    monkeypatch.setattr(shipped, "chat_template", CHATML)
    ids = encode_prompt(shipped, asking(CHATS["system"]), {"enable_thinking": False})
    assert shipped.decode(ids) == (
        "<|im_start|>system\nAnswer with a number — nothing else.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 + 3? <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_a_text_is_one_users_turn(shipped) -> None:
    assert encode_prompt(shipped, asking(())).tolist() == encode_prompt(shipped, QUESTION.content).tolist()


def test_a_chat_needs_a_template(shipped, monkeypatch) -> None:
    monkeypatch.setattr(shipped, "chat_template", None)
    with pytest.raises(PromptRefusedError, match=r"no chat template; add chat_template\.jinja"):
        encode_prompt(shipped, asking(CHATS["system"]))


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        (CHATML, {"enable_thinking": False}, None),
        (CHATML, {"enable_thinkng": False}, "enable_thinkng: the model's chat template does not know it"),
        (CHATML, {"thinking": True}, "thinking: the model's chat template does not know it"),
        (CHATML, {"messages": []}, "messages: is set for each prompt"),
        (None, {"enable_thinking": False}, "no chat template; leave it empty"),
        (None, {}, None),
    ],
)
def test_an_option_that_does_nothing_is_named(shipped, monkeypatch, template, options: dict, words: str | None) -> None:
    monkeypatch.setattr(shipped, "chat_template", template)
    problems = list(chat_option_problems(shipped, options))
    assert len(problems) == (words is not None)
    assert all(words in problem for problem in problems)

"""From a row of a file to a prompt: which column holds the question, which the answer, and what a chat is.

Owns: the names of columns, the `columns` map of a source, chat messages, and the sentence about a row that is no
prompt. Does not own reading files (`files`).

A row is a question (`prompt`, `question`, `problem` or `messages`: a text, or a list of chat messages) and what its
verifier needs. Without a map all other columns become metadata; `answer` is taken from `reward_model.ground_truth` or
`ground_truth` where the row has none. With a map exactly the named values become metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ring_async.data.plain import OddValueError, plain_value
from ring_async.types import ChatMessage, Prompt

QUESTION_COLUMNS = ("prompt", "question", "problem", "messages")
ANSWER_COLUMNS = ("reward_model.ground_truth", "ground_truth")
"""Where verl's files and others hold what verifiers here call `answer`."""
_NOTHING = object()
_WRITTEN_CHAT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


class NoPromptError(ValueError):
    """A row that is no prompt; the message says why."""


def prompt_of(row: Mapping[str, Any], prompt_id: str, source: str, columns: Mapping[str, str]) -> Prompt:
    """The prompt that a row describes.

    Args:
        row: plain data, as a file's reader gives it.
        prompt_id: of the prompt to make.
        source: the source's name.
        columns: name of a value → path of its column, e.g. `{"answer": "reward_model.ground_truth"}`; `prompt` names
            the question's. Empty: all columns under their own names.

    Raises:
        NoPromptError: there is no question, a named column is absent, or a value cannot travel.
    """
    asked, question = _question(row, columns)
    try:
        if columns:
            named = {name: path for name, path in columns.items() if name != "prompt"}
            metadata = {name: _metadata(name, _required(row, path), path) for name, path in named.items()}
        else:
            metadata = {name: _metadata(name, value, name) for name, value in row.items() if name != asked}
            if metadata.get("answer") is None and (found := _first(row, ANSWER_COLUMNS)) is not None:
                metadata["answer"] = _metadata("answer", *found)
        text, messages = _asked(asked, question)
    except OddValueError as error:
        raise NoPromptError(f"column {error}") from error
    return Prompt(prompt_id, source, text, metadata, messages)


def _question(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, Any]:
    if path := columns.get("prompt"):
        return path, _required(row, path)
    for name in QUESTION_COLUMNS:
        if row.get(name) not in (None, "", []):
            return name, row[name]
    has = ", ".join(map(repr, row)) or "nothing"
    nested = next((name for name, value in row.items() if _are_rows(value)), "")
    if nested and "from" in row[nested][0]:
        raise NoPromptError(
            f"holds a conversation under {nested}, as {{from, value}}; messages are {{role: user, content: text}}"
        )
    if nested and len(row) <= 3:
        raise NoPromptError(
            f"holds its rows under {nested}; write them a line each: jq -c '.{nested}[]' FILE > ROWS.jsonl"
        )
    raise NoPromptError(
        f"has no text under prompt or question, nor under problem or messages; it has {has}: name the question's "
        "column in `columns`, e.g. columns: {prompt: text, answer: target}"
    )


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, dict) for one in value[:2])


def _asked(column: str, question: Any) -> tuple[str, tuple[ChatMessage, ...]]:
    """The question's text, and its chat messages if it is more than one user's turn."""
    if isinstance(question, str) and _WRITTEN_CHAT.match(question):
        raise NoPromptError(
            f"column {column} holds chat messages as text; write them as a list: jq -c '.{column} |= fromjson' FILE"
        )
    if isinstance(question, str):
        messages = [ChatMessage("user", plain_value(question, column))]
    elif isinstance(question, list):
        messages = [_message(f"{column}[{place}]", one) for place, one in enumerate(question)]
    else:
        raise NoPromptError(f"column {column} holds {type(question).__name__}; a text, or a list of chat messages")
    if not messages or messages[-1].role == "assistant":
        raise NoPromptError(
            f"column {column}: the last message must be one that the model answers, not the assistant's"
        )
    text = messages[-1].content
    if not text.strip():
        raise NoPromptError(f"column {column} is empty; remove the row")
    is_plain = len(messages) == 1 and messages[0].role == "user"
    return text, () if is_plain else tuple(messages)


def _message(where: str, message: Any) -> ChatMessage:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
        raise NoPromptError(f"column {where} is no chat message; write {{role: user, content: text}}")
    unknown = sorted(
        key for key, value in message.items() if key not in {"role", "content"} and value not in (None, [], "")
    )
    if unknown:
        raise NoPromptError(f"column {where} has {unknown[0]}; chat messages here have role and content alone")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content[{place}]", part) for place, part in enumerate(content))
    if not isinstance(content, str):
        raise NoPromptError(f"column {where}.content is no text")
    return ChatMessage(plain_value(message["role"], f"{where}.role"), plain_value(content, f"{where}.content"))


def _part(where: str, part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise NoPromptError(f"column {where} is no text; models here read text alone")


def _metadata(name: str, value: Any, path: str) -> Any:
    """A value for the verifier. An `answer` that is an integer of any size is kept exactly, as text where it must."""
    if name == "answer" and isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    return plain_value(value, path)


def _required(row: Mapping[str, Any], path: str) -> Any:
    value = _at(row, path)
    if value is _NOTHING:
        raise NoPromptError(f"has no column {path}, which `columns` names; it has {', '.join(map(repr, row))}")
    return value


def _first(row: Mapping[str, Any], paths: tuple[str, ...]) -> tuple[Any, str] | None:
    """The first of the columns that holds something, with its path."""
    for path in paths:
        value = _at(row, path)
        if value is not _NOTHING and value is not None:
            return value, path
    return None


def _at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path: a column of this name, dots and all, or one object within another."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _NOTHING
        value = value[name]
    return value

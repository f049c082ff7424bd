"""Where in a response the answer stands: tags, boxes, the last number.

Owns: finding text. Does not own: comparing it. Every function returns None when there is no answer, and the last
occurrence wins, since models correct themselves.
"""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_MAX_BOXES = 8
"""Unclosed boxes looked at, from the end: thousands of them would cost a scan each."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+]?\.\d+")


def tagged_answer(text: str) -> str | None:
    """The content of the last closed `<answer>…</answer>`, stripped."""
    found = _TAGGED.findall(text)
    return found[-1].strip() if found else None


def boxed_answer(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` or `\fbox{…}`, nested braces included; `\boxed 7` counts too."""
    position = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    for _ in range(_MAX_BOXES):
        if position < 0:
            return None
        content = _braced(text, text.index("x", position) + (3 if text.startswith("\\boxed", position) else 1))
        if content is not None:
            return content
        position = max(text.rfind("\\boxed", 0, position), text.rfind("\\fbox", 0, position))
    return None


def last_number(text: str) -> str | None:
    """The last decimal number, thousands separators removed."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def _braced(text: str, position: int) -> str | None:
    rest = text[position:]
    stripped = rest.lstrip()
    if not stripped.startswith("{"):
        token = re.match(r"\s+([^\s$\\{}]+)", rest)
        return token.group(1).rstrip(".,;") if token else None
    depth = 0
    for index, character in enumerate(stripped):
        if stripped[index - 1 : index] == "\\" and character in "{}":
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return stripped[1:index].strip()
    return None

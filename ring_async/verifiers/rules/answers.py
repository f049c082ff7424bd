"""Where in a response the answer stands: tags, boxes, words that announce it, the last number.

Owns: finding text. Does not own: comparing it. Every function returns None when there is no answer, and the last
occurrence wins, since models correct themselves.
"""

from __future__ import annotations

import re

from ring_async.verifiers.reading.characters import plain_characters
from ring_async.verifiers.reading.spelled import powers_in_digits

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_THINKING = re.compile(
    r"(?:<(?P<tag>/?)(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)(?:\s[^<>]{0,80})?>"
    r"|◁(?P<kimi>/?)think▷|\[(?P<mistral>/?)THINK\]|<\|(?P<sky>begin|end)_of_thought\|>)",
    re.IGNORECASE,
)
"""Marks around thoughts, of the families that write them."""
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_MAX_BOXES = 8
"""Boxes looked at, from the end: thousands of unclosed ones would cost a scan each."""
_BETWEEN_BOXES = re.compile(
    r"[\s$.\\()\[\]]*(?:,|;|and|or|,\s*and|,\s*or|和|与|或|、|，|\\text\s*\{\s*,?\s*(?:and|or)\s*\})"
    r"[\s$\\()\[\]]*(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=[\s$]*)?",
    re.IGNORECASE,
)
_MAX_BETWEEN_CHARACTERS = 30
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_TIMES_TEN = r"\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*-?\d{1,4}\s*\}|-?\d{1,4})"
_NUMBER = re.compile(
    r"(?<![A-Za-z_\d.])(?P<sign>[-+]?)(?P<digits>"
    rf"(?:\d+\s)?{_INTEGER}\s?/\s?\d+(?!\d|[./]\d|/)|{_INTEGER}(?:\.\d+)?(?:[eE][-+]?\d+|{_TIMES_TEN})?|\.\d+)"
    r"(?P<percent>\s?\\?%)?"
)
_FRACTION = re.compile(r"(?P<sign>[-+]?)\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_MINUS_APART = re.compile(r"(?:^|[=:])\s?-$")
_LONGEST_NUMBER = 400


def finished_text(text: str) -> str:
    """The response without thinking that was begun and never ended: what stands there is no answer yet."""
    if not any(sign in text for sign in "<◁["):
        return text
    start = None
    for mark in _THINKING.finditer(text):
        if "/" in mark.group() or mark["sky"] == "end":
            start = None
        elif start is None:
            start = mark.start()
    return text if start is None else text[:start]


def tagged_answer(text: str) -> str | None:
    """The content of the last closed `<answer>…</answer>`, stripped."""
    found = _TAGGED.findall(text)
    return found[-1].strip() if found else None


def boxed_answer(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` or `\fbox{…}`, nested braces included; `\boxed 7` counts too.

    An empty box is the answer only where no other box says anything.
    """
    boxes = _last_boxes(text)
    return next((content for content, _, _ in boxes if content), boxes[0][0] if boxes else None)


def boxed_answers(text: str) -> str | None:
    r"""As `boxed_answer`, but boxes that stand together are one list: `\boxed{1} and \boxed{2}` is `1, 2`."""
    boxes = [box for box in _last_boxes(text) if box[0]]
    if not boxes:
        return boxed_answer(text)
    together = [boxes[0]]
    for box in boxes[1:]:
        between = text[box[2] : together[-1][1]]
        if len(between) > _MAX_BETWEEN_CHARACTERS or not _BETWEEN_BOXES.fullmatch(between):
            break
        together.append(box)
    contents = list(dict.fromkeys(content for content, _, _ in reversed(together)))
    return contents[0] if len(contents) == 1 else ", ".join(content for content, _, _ in reversed(together))


def last_number(text: str) -> str | None:
    r"""The last number, thousands separators removed: `-7`, `1234.5`, `1/2`, `50%`.

    A minus directly before it is its sign, unless a number stands before the minus: `10 -5` ends with 5.
    """
    text = powers_in_digits(plain_characters(text))
    last = None
    for match in _NUMBER.finditer(text):
        if match.end() - match.start() <= _LONGEST_NUMBER:
            last = match
    fraction = None
    for match in _FRACTION.finditer(text, max(0, len(text) - 10_000)):
        fraction = match
    if fraction is not None and (last is None or last.end() <= fraction.end()):
        return f"{fraction['sign']}{fraction[2]}/{fraction[3]}"
    if last is None:
        return None
    before = text[: last.start()].rstrip()
    sign = "" if before[-1:].isdigit() else last["sign"].replace("+", "")
    if not sign and _MINUS_APART.search(before[-3:]):
        sign = "-"
    digits = re.sub(r"\s*/\s*", "/", last["digits"].replace(",", ""))
    return sign + digits + ("%" if last["percent"] else "")


def _last_boxes(text: str) -> list[tuple[str, int, int]]:
    """Contents, starts and ends of the last complete boxes, the last first; boxes inside boxes do not count."""
    found: list[tuple[str, int, int]] = []
    before = len(text)
    for _ in range(_MAX_BOXES):
        position = max(text.rfind("\\boxed", 0, before), text.rfind("\\fbox", 0, before))
        if position < 0:
            break
        command = _BOX.match(text, position)
        braced = _braced(text, command.end()) if command is not None else None
        if braced is not None:
            content, end = braced
            found = [box for box in found if box[1] >= end]
            found.append((content, position, end))
        before = position
    return found


def _braced(text: str, position: int) -> tuple[str, int] | None:
    """What a command at this position holds, and where that ends."""
    start = position
    while start < len(text) and text[start].isspace():
        start += 1
    if text[start : start + 1] != "{":
        token = re.compile(r"\s+([^\s$\\{}]+)").match(text, position)
        return (token.group(1).rstrip(".,;"), token.end()) if token else None
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        brace = match.group()
        depth += (brace == "{") - (brace == "}")
        if depth == 0 and brace == "}":
            return text[start + 1 : match.start()].strip(), match.end()
    return None

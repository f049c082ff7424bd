r"""Reading a judge's score out of what it wrote.

Owns: the forms in which a judge states its verdict. Does not own: asking, or the scale's meaning.

A verdict is stated, not mentioned: a line that says `Score: N` and nothing else of weight, a last sentence that does,
`[[N]]`, `<score>N</score>`, or JSON with a `score`. A score inside a sentence, in quotation marks, in a quoted line
(`> …`) or in the judge's thoughts belongs to somebody else, or is not final. The last verdict counts; a different
score after it, stated or quoted, makes the answer ambiguous. All numbers are on the scale asked for: `5/5` on a scale
to 10, `8,5`, `7-8` and `1e-1` are not read as 5, 8, 7 and 1.

Patterns take linear time: a response that the judge quotes may be made to keep them busy.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

MAX_CHARACTERS = 100_000
"""Longer answers are cut at the front: a verdict stands at the end."""

_MARKUP = re.compile(r"[*_`#]+|\\boxed|[{}]")
_NAME = r"(?:(?:my|the|your|final|overall|total|answer|judge)\s){0,3}(?:score|rating)"
_COLON = r"\s?(?:\([^()\n]{0,40}\)\s?|out of (?P<scale>\d{1,9})\s?)?(?:[:=]\s?|is:?\s)"
_NUMBER = r"[\[(]{0,2}(?P<number>[-+]?\d{1,9}(?:\.\d{1,9})?)(?![\d.,]*\d|e[-+]?\d)[\])]{0,2}"
_OF = r"(?:\s?(?:/|out of|of)\s?(?P<top>\d{1,9}(?:\.\d{1,9})?)(?![\d.,]*\d))?(?:\s?(?:points?|pts))?"
_REMARK = r"(?:\s?[.;:(—–]\s?(?!\d)(?P<remark>.*)|\s?[-,]\s(?!\d)(?P<aside>.*))?"
_LINE = re.compile(rf"(?:[-•]\s)?{_NAME}{_COLON}{_NUMBER}{_OF}\s?{_REMARK}", re.IGNORECASE)
_TITLE = re.compile(rf"{_NAME}\s?:?", re.IGNORECASE)
_BARE = re.compile(r"[\[(]{0,2}[-+]?\d")
_LAST_SENTENCE = re.compile(rf"(?:^|[.!?。！？;]\s){_NAME}{_COLON}{_NUMBER}{_OF}\s?[.!]?$", re.IGNORECASE)
_MENTION = re.compile(rf"score\s?[:=]\s?{_NUMBER}", re.IGNORECASE)
_BRACKETS = re.compile(r"\[\[\s?(?P<number>[-+]?\d{1,9}(?:\.\d{1,9})?)(?:\s?/\s?(?P<top>\d{1,9}))?\s?\]\]")
_TAG = re.compile(r"<score>\s?(?P<number>[-+]?\d{1,9}(?:\.\d{1,9})?)(?:\s?/\s?(?P<top>\d{1,9}))?\s?</score>", re.I)
_QUOTATION = re.compile(r'"[^"]*"|“[^“”]*”')
_JSON_KEYS = ("score", "rating", "final_score", "overall_score")


class UnreadableScoreError(ValueError):
    """The judge's answer states no score, or two; the message says which."""


def read_score(text: str, high: float, *, is_cut: bool = False) -> float:
    """The judge's verdict.

    Args:
        text: what the judge wrote.
        high: top of its scale: a score "out of" anything else is on another scale.
        is_cut: whether the answer ended because it was too long. A number at its very end may then lack digits.

    Raises:
        UnreadableScoreError: no verdict, two different ones, or one on another scale.
    """
    plain = _without_thoughts(unicodedata.normalize("NFKC", text[-MAX_CHARACTERS:])).strip()
    if not plain:
        raise UnreadableScoreError("no answer after the judge's thoughts")
    if is_cut and plain[-1].isdigit():
        raise UnreadableScoreError(f"cut within its last number: {plain[-80:]!r}")
    own = _without_quotations(plain)
    stated = list(_json_scores(plain)) or _stated(plain, own) or [*_TAG.finditer(own)] or [*_BRACKETS.finditer(own)]
    if not stated:
        raise UnreadableScoreError(f"no `Score: N` in: {plain[-200:]!r}")
    last = stated[-1]
    if isinstance(last, float):
        return last
    top = last["top"] or last.groupdict().get("scale")
    if top is not None and float(top) != high:
        raise UnreadableScoreError(f"a score out of {top}, where the scale ends at {high:g}")
    return float(last["number"])


def _without_thoughts(text: str) -> str:
    """What follows the judge's thoughts; nothing if they never end."""
    _, closing, rest = text.rpartition("</think>")
    if closing:
        return rest
    return text.partition("<think>")[0]


def _without_quotations(text: str) -> str:
    """The text with what stands in double quotation marks blotted out, line by line, where the marks are paired."""
    if text.count('"') % 2:
        return text
    return _QUOTATION.sub(lambda match: re.sub(r"[^\n]", "\N{FULL BLOCK}", match.group()), text)


def _stated(text: str, own: str) -> list[re.Match[str]]:
    """Lines of the judge's own that are verdicts, in order, or else a last sentence that is one.

    Raises:
        UnreadableScoreError: a different score is named after the last verdict.
    """
    said, lines = ([" ".join(_MARKUP.sub("", line).split()) for line in part.split("\n")] for part in (text, own))
    for index, line in enumerate(lines[:-1]):
        if _TITLE.fullmatch(line) and _BARE.match(lines[index + 1]):  # a heading, and the number below it
            lines[index : index + 2] = ["", f"{line.rstrip(': ')}: {lines[index + 1]}"]
    found = [(index, match) for index, line in enumerate(lines) if (match := _LINE.fullmatch(line))]
    last_line = next((index for index in range(len(lines) - 1, -1, -1) if lines[index]), -1)
    ending = _LAST_SENTENCE.search(lines[last_line])
    if ending is not None and (not found or found[-1][0] != last_line):
        found.append((last_line, ending))
    if found:
        index, verdict = found[-1]
        after = [verdict.groupdict().get("remark") or verdict.groupdict().get("aside") or "", *said[index + 1 :]]
        for mention in _MENTION.finditer("\n".join(after)):
            if float(mention["number"]) != float(verdict["number"]):
                raise UnreadableScoreError(f"a score of {verdict['number']}, and then one of {mention['number']}")
    return [match for _, match in found]


def _json_scores(text: str) -> Iterator[float]:
    """The `score` of an answer that is a JSON object, or ends with one in a fence or on its last line."""
    before, _, _ = text.rpartition("```") if text.endswith("```") else ("", "", "")
    fenced = before.rpartition("```")[2].removeprefix("json").removeprefix("JSON").strip()
    for candidate in (text, fenced, text.splitlines()[-1]):
        if not (candidate.startswith("{") and candidate.endswith("}")):
            continue
        try:
            answer: Any = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        for key in _JSON_KEYS:
            value = answer.get(key) if isinstance(answer, dict) else None
            if isinstance(value, str) and re.fullmatch(r"\s?[-+]?\d{1,9}(?:\.\d{1,9})?\s?", value):
                value = float(value)
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
                yield float(value)
                return

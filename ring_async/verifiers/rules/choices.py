r"""Multiple choice: which options a reference and a response mean.

Owns: letters, indices, option texts, and the words people announce a choice with. Does not own: where a box or tag is.

A reference is a letter or several (`B`, `b`, `AC`, `A, C`), the text of an option, a number as text (`"2"`, a label
from 1), or a whole number (`1`, an index from 0). A response names letters, or writes an option's text; a label where
the reference is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ring_async.verifiers.reading.characters import plain_characters
from ring_async.verifiers.reading.latex import plain_latex, without_text_commands

_MAX_CHARACTERS = 2000
_LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_AND = r"(?:\s*(?:,|;|&|and|und|y|et|和)\s*|\s+)"
_ALONE = re.compile(rf"^\(?\s*([A-Za-z])\s*\)?(?:{_AND}\(?\s*([A-Za-z])\s*\)?){{0,9}}$")
_RUN = re.compile(r"^\(?\s*[A-Z]{2,10}\s*\)?$")
_WITH_TEXT = re.compile(
    r"^\(?\s*([A-Z])\s*(?:\)|[.:,](?=\s|$)|\s+[-–—]+\s|\s*[-:]\s|\s+(?=\(.*\)$)|\s+is\s+(?:the\s+)?(?:correct|right|answer))\s*(.*)$",
    re.DOTALL,
)
_AFTER_TEXT = re.compile(r"^(.*\S)\s*\(([A-Z])\)$", re.DOTALL)
_PREFIX = re.compile(
    r"^(?:the\s+)?(?:correct\s+|right\s+|final\s+)?(?:option|choice|answer|letter)s?\s*(?:is|are)?\s*:?\s*", re.I
)
_ANNOUNCED = re.compile(
    r"(?:\b(?:answers?|options?|choices?|antwort|lösung|respuesta|réponse|resposta|risposta|jawaban|ответ)"
    r"|答案|选项|答え|答|정답)[ \t]{0,3}(?:\([^()\n]{0,20}\)[ \t]{0,3})?\*{0,2}[ \t]{0,3}"
    r"(?:(?:correct[ae]|corretta)[ \t]{1,3})?"
    r"(?P<mark>are|ist|is|est|es|lautet|[-–—](?=[ \t])|:|=|é|è|是|为|選|は|은|는|：)[ \t]{0,3}:?[ \t*]{0,6}"
    r"(?:(?:therefore|thus|then|hence|clearly|indeed|definitely)[ \t,]{1,3}"
    r"|not[ \t]{1,3}\(?[A-Z]\)?,?[ \t]{1,3}but[ \t]{1,3})?"
    r"(?:\n[ \t*]{0,6}){0,2}(?!(?:answer|antwort)\b)"
    r"(?=(?P<rest>[^\n]{1,200}))",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"(?i:\b(?:option|choice)\s{1,3}\(?([A-Z])\)?\s{1,3}is\s{1,3}(?:the\s{1,3})?(?:correct|right))"
    r"|选(?:择|项)?\s{0,3}:?\s{0,3}\(?([A-Za-z])(?![A-Za-z])"
    r"|(?<![A-Za-z'])[($*]{0,3}(?:\\(?:mathbf|text|textbf|mathrm)\{)?([A-Z])\}?[)$*]{0,3}\s{1,3}is\s{1,3}the\s{1,3}"
    r"(?:correct\s{1,3}|right\s{1,3}|best\s{1,3})?"
    r"(?:answer|option|choice)\b"
    r"|\b(?:choose|pick|select|go\s{1,3}with)\s{1,3}(?:(?:the\s{1,3})?(?:option|choice|answer|letter)\s{1,3})?"
    r"[($*]{0,3}([A-Z])[)$*]{0,3}"
    r"(?=\s{0,3}(?:[.,;:!\n]|$|because\b|since\b))",
)
_FIRST_LETTERS = re.compile(
    r"^[*'\"`\[({$\\]*(?:(?i:option|choice)\s+)?[*'\"`\[({$\\]*\s*([A-Z])(?![A-Za-z0-9'’]\w)\s*[\])]?\*{0,2}(?![A-Za-z0-9])"
    r"((?:\s*(?:,|and|&|和|,\s*and)\s*\(?[A-Z]\)?(?![A-Za-z'’]))*)"
)
_OR_ANOTHER = re.compile(r"\s*(?:or|/|或)\s*\(?[A-Z]\)?(?![A-Za-z])")
_LOWER_LETTER = re.compile(r"^\*{0,2}[\[(]?\s*([a-z])\s*[\])]?\*{0,2}\s*(?:[.,;:)]|$)")


def chosen_by_reference(gold: Any, choices: Sequence[str]) -> frozenset[str] | None:
    """The letters that a reference means; None where it is no choice.

    Args:
        gold: the reference as the prompt's metadata has it.
        choices: the options' texts; empty where the prompt has none. Then one letter is a choice, and
            several are one in the order of the alphabet up to F: `AC` is a choice, `DNA` and `CO` are not.
    """
    if isinstance(gold, list | tuple):
        parts = [chosen_by_reference(part, choices) for part in gold]
        return None if not parts or None in parts else frozenset().union(*[part for part in parts if part])
    return _chosen_by_one(gold if isinstance(gold, int) else str(gold), tuple(map(str, choices)))


@lru_cache(maxsize=256, typed=True)
def _chosen_by_one(gold: int | str, choices: tuple[str, ...]) -> frozenset[str] | None:
    letters = _letters_for(choices)
    if isinstance(gold, int) and not isinstance(gold, bool):
        return frozenset({letters[gold]}) if choices and 0 <= gold < len(choices) else None
    text = without_text_commands(plain_latex(str(gold)))
    if not choices:
        return _without_options(text)
    named = _named_letters(text, letters)
    if named:
        return named
    for letter, choice in zip(letters, choices, strict=False):
        if _is_same_text(text, choice):
            return frozenset({letter})
    if text.isdigit() and 1 <= int(text) <= len(choices):
        return frozenset({letters[int(text) - 1]})
    return None


def chosen_by_answer(answer: str, choices: Sequence[str], *, has_labels: bool = False) -> frozenset[str]:
    """The letters that a marked answer means; empty where it names none.

    Args:
        answer: what stands in a box, a tag, or after the words that announce it.
        choices: the options' texts.
        has_labels: options are numbered from 1, and a number is a label.
    """
    letters = _letters_for(choices)
    if len(answer) == 1 and answer in letters:
        return frozenset(answer)
    text = without_text_commands(plain_latex(answer[:_MAX_CHARACTERS])).strip().strip("*").strip()
    text = " ".join(text.split())
    for reading in (text, _PREFIX.sub("", text).strip()):
        named = _named_letters(reading, letters)
        if named:
            return named
        matching = [letter for letter, choice in zip(letters, choices, strict=False) if _is_same_text(reading, choice)]
        if matching:
            return frozenset(matching)
        if has_labels and reading.isdigit() and 1 <= int(reading) <= len(letters):
            return frozenset({letters[int(reading) - 1]})
        with_text = _WITH_TEXT.match(reading)
        if with_text is not None and with_text[1] in letters:
            return frozenset({with_text[1]})
        after = _AFTER_TEXT.match(reading)
        if after is not None and _is_same_text(after[1], dict(zip(letters, choices, strict=False)).get(after[2], "")):
            return frozenset({after[2]})
    return frozenset()


def announced_choice(text: str, choices: Sequence[str]) -> tuple[frozenset[str], int] | None:
    """The letters that the response's last announcement names (`The answer is (C).`), and where it stands."""
    letters = _letters_for(choices)
    text = plain_characters(text, greek=False)
    found: tuple[frozenset[str], int] | None = None
    for match in _ANNOUNCED.finditer(text):
        named = _letters_first(match["rest"].strip(), letters)
        if named:
            found = named, match.start()
    for match in _CONFIRMED.finditer(text):
        letter = next(filter(None, match.groups())).upper()
        if (found is None or match.start() > found[1]) and letter in letters:
            found = frozenset({letter}), match.start()
    return found


def announced_text(text: str) -> str | None:
    """The rest of the line after the last `the answer is` or `answer:`, without a closing full stop."""
    last = None
    for match in _ANNOUNCED.finditer(text):
        last = match
    return last["rest"].strip().strip("*").strip().removesuffix(".").strip() if last is not None else None


def _letters_for(choices: Sequence[str]) -> tuple[str, ...]:
    return _LETTERS[: len(choices)] if choices else _LETTERS


def _without_options(text: str) -> frozenset[str] | None:
    letters = re.findall("[A-Z]", text)
    if not re.fullmatch(r"\(?[A-Z]\)?|[A-F]{2,6}|[A-Z](?:\s*,\s*[A-Z]){1,5}", text):
        return None
    return frozenset(letters) if letters == sorted(set(letters)) else None


def _named_letters(text: str, letters: Sequence[str]) -> frozenset[str]:
    """Letters and nothing else: `B`, `(b)`, `A, C`, `A and C`, `CA`."""
    if _RUN.match(text):
        named = re.findall("[A-Z]", text)
        return frozenset(named) if set(named) <= set(letters) and len(set(named)) == len(named) else frozenset()
    if _ALONE.match(text):
        words = re.sub(r"\b(?:and|und|et)\b", " ", text)
        named = [letter.upper() for letter in re.findall(r"[A-Za-z]", words)]
        return frozenset(named) if set(named) <= set(letters) else frozenset()
    return frozenset()


def _letters_first(rest: str, letters: Sequence[str]) -> frozenset[str]:
    rest = re.sub(r"^\\boxed\{\s*([^{}]{1,20})\}", r"\1 ", rest.lstrip("$"))
    match = _FIRST_LETTERS.match(rest)
    if match is not None and _OR_ANOTHER.match(rest, match.end()):
        return frozenset()
    if match is not None:
        named = frozenset([match[1], *re.findall("[A-Z]", match[2] or "")])
        return named if named <= set(letters) else frozenset()
    lower = _LOWER_LETTER.match(rest)
    return frozenset({lower[1].upper()}) if lower is not None and lower[1].upper() in letters else frozenset()


def _is_same_text(text: str, choice: str) -> bool:
    return _folded(text) == _folded_choice(str(choice))


@lru_cache(maxsize=1024)
def _folded_choice(choice: str) -> str:
    return _folded(without_text_commands(plain_latex(choice)))


def _folded(text: str) -> str:
    return "".join(text.casefold().split()).rstrip(".")

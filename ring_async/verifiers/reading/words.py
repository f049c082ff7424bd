r"""Answers in words: which texts are words at all, which words mean the same, and the letter of a choice in brackets.

Owns: comparing words. Does not own: multiple choice with its options' texts (`rules.choices`).
"""

from __future__ import annotations

import re

from ring_async.verifiers.reading.amounts import closed_number
from ring_async.verifiers.reading.latex import without_text_commands

_CHOICE = re.compile(r"^\(?\s*([A-J])\s*(?:[).:]\s*|\)\s*$|$)(.*)$", re.DOTALL)
_CHOICE_OF = re.compile(r"^(?:option|choice|answer)\s*:?\s*\(?\s*([A-J])\s*\)?[.:]?$", re.IGNORECASE)
_ARTICLE = re.compile(r"^\s*(?:an?|the)\s+(?=\w{2})")
_SAME_WORDS = (
    frozenset(
        [
            "nosolution",
            "nosolutions",
            "norealsolution",
            "norealsolutions",
            "\\emptyset",
            "emptyset",
            "theemptyset",
            "\\{\\}",
            "therearenosolutions",
            "无解",
            "无实数解",
        ]
    ),
    frozenset(
        [
            "infinitelymany",
            "infinitelymanysolutions",
            "infinitesolutions",
            "infinitenumberofsolutions",
            "无数个",
            "无穷多个",
        ]
    ),
    frozenset({"dne", "doesnotexist", "thelimitdoesnotexist"}),
)


def same_words(gold: str, answer: str) -> bool | None:
    """Whether words are the same ones; None where one of the two is no words, or both may be products of letters."""
    one, other = _words_of(gold), _words_of(answer)
    for synonyms in _SAME_WORDS:
        if one in synonyms:
            return other in synonyms
    if not (is_words(gold) and is_words(answer)):
        return None
    if one == other or _items_of(gold) == _items_of(answer):
        return True
    may_be_products = all(len(text) <= 3 and text.islower() and text.isascii() for text in (gold, answer))
    return None if may_be_products else False


def _items_of(text: str) -> list[str]:
    """The words between commas and `and`, in alphabetical order."""
    return sorted(filter(None, map(_words_of, re.split(r",|;|&|\b(?:and|or)\b", without_text_commands(text)))))


def is_words(text: str) -> bool:
    """Whether a text is words and nothing else: no digits, no formula."""
    plain = without_text_commands(text)
    if any(character in "\\=<>^_+*/{}|[]0123456789" for character in plain):
        return False
    return re.search(r"[A-Za-z]{2}|[^\W\d_a-zA-Z]", plain) is not None and closed_number(plain) is None


def _words_of(text: str) -> str:
    return re.sub(r"[\s.,'\"()-]+", "", _ARTICLE.sub("", without_text_commands(text).casefold()))


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether the answer names the letter that the reference is; None where the reference is no choice."""
    gold_choice, choice = _CHOICE.match(gold), _CHOICE.match(answer) or _CHOICE_OF.match(answer)
    if gold_choice is None or (gold_choice[2] and not gold.lstrip().startswith("(")):
        return None
    if choice is None:
        lowered = re.fullmatch(r"\(\s*([a-j])\s*\)", answer)
        return lowered[1].upper() == gold_choice[1] if lowered and gold.startswith("(") else None
    return choice[1].upper() == gold_choice[1]


def value_behind_choice(gold: str) -> str | None:
    r"""The value that a reference writes behind its letter, `12` in `(C) 12`; None where it writes none."""
    match = _CHOICE.match(gold)
    return (match[2].strip() or None) if match is not None and gold.lstrip().startswith("(") else None


def names_choice(answer: str) -> bool:
    """Whether an answer has the form of a choice at all."""
    return bool(_CHOICE.match(answer) or _CHOICE_OF.match(answer) or re.fullmatch(r"\(\s*[a-j]\s*\)", answer))


def letters_in(text: str) -> set[str]:
    """The letters that stand alone, as variables do."""
    return set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text))


def has_ellipsis(text: str) -> bool:
    """Whether the text leaves something out, so that it can only be compared as written."""
    return "\\ldots" in text or "..." in text

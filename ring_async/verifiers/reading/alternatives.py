"""The plain texts that an answer may stand for.

Owns: putting the steps of reading in order. Does not own: the steps.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ring_async.verifiers.reading.latex import plain_latex, without_text_commands
from ring_async.verifiers.reading.numerals import grouped_reading, plain_numbers
from ring_async.verifiers.reading.spelled import powers_in_digits, spelled_number
from ring_async.verifiers.reading.units import move_currency
from ring_async.verifiers.reading.vectors import coordinates
from ring_async.verifiers.reading.words import is_words

_SENTENCE = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then|and|the|my|our|final|a|an|his|her|its|of|in|[A-Za-z]{2,})[ ,]+){1,8}"
    r"(?:is|are|equals?(?: to)?|will be|would be)\s*:?\s+(?=\S)",
    re.IGNORECASE,
)
_ANNOUNCEMENT = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then)[ ,]+)?(?:the|my|our|its)(?: [a-z]+){1,3} (?:is|are)\s*:?\s+", re.IGNORECASE
)
"""A sentence whose end may be words: `The answer is Monday`. Others, such as `none of them is even`, are not cut."""
_CHINESE_SENTENCE = re.compile(
    r"^(?:所以|因此|故|则|因而)?[,]?(?:最终|正确)?(?:答案|结果|答|值|解)(?:是|为|等于)?[:]?\s*(?=\S)"
)
_PREFIX = re.compile(
    r"^(?:\\approx|≈|~|approximately|approx\.?|about|roughly|answer\s*:|=|约为?|大约)\s*", re.IGNORECASE
)
_ABOUT_CONSTANT = re.compile(
    r"[\s,;(]*(?:where|with)?\s*[CcKk]\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?"
    r"|is (?:an? )?(?:any |arbitrary |real )*constant(?: of integration)?|为(?:任意)?常数)\s*\)?\s*$"
)
_MAX_ASIDE = 80
_REMARK = re.compile(r"(?<=\S)\s+\(\s*[a-z]{4,}(?:[ -][a-z]+){0,4}\s*\)$")
_LABELS = tuple(
    re.compile(rf"(?:^|[\s;,.])\(({first})\)|\\text\s*\{{\s*\(?({first})\)\s*\}}")
    for first in ("[a-h]", "[1-9]", "i{1,3}|iv|v")
)
_LABEL_ORDERS = ("abcdefgh", "123456789", ("i", "ii", "iii", "iv", "v"))
_MIXED_AND = re.compile(r"^([-+]?\d{1,9}) and (\d{1,9}\s*/\s*\d{1,9}|\\frac\s*\{\d{1,9}\}\s*\{\d{1,9}\})$")


@lru_cache(maxsize=512)
def readings(text: str) -> tuple[str, ...]:
    """The plain texts that an answer may stand for, the likeliest first: a comma may group or separate."""
    plain = _CHINESE_SENTENCE.sub("", plain_latex(coordinates(text)))
    unmarked = without_text_commands(plain)
    sentence = _SENTENCE.match(unmarked)
    if sentence is not None and is_words(unmarked[sentence.end() :]):
        sentence = _ANNOUNCEMENT.match(unmarked)
    if sentence is not None:
        plain = unmarked[sentence.end() :].strip()
    if _PREFIX.match(unmarked):
        plain = unmarked
    unmarked = " ".join(without_text_commands(plain).split())
    for aside in (_ABOUT_CONSTANT, _REMARK):
        found = aside.search(unmarked, max(0, len(unmarked) - _MAX_ASIDE))
        if found is not None and found.start() and not is_words(unmarked):
            plain = unmarked = unmarked[: found.start()]
    plain = move_currency(_without_labels(_PREFIX.sub("", plain).strip()))
    number = spelled_number(without_text_commands(plain))
    plain = powers_in_digits(plain if number is None else number)
    mixed = _MIXED_AND.match(without_text_commands(plain))
    kept = (grouped_reading(plain), plain, *([f"{mixed[1]} {mixed[2]}"] if mixed else []))
    return tuple(dict.fromkeys(plain_numbers(reading) for reading in kept))


def _without_labels(text: str) -> str:
    """Parts that are labelled in order, `(a) 5 (b) 6`, as a list."""
    for label, order in zip(_LABELS, _LABEL_ORDERS, strict=True):
        found = [match[1] or match[2] for match in label.finditer(text)]
        if len(found) > 1 and found == list(order[: len(found)]) and label.match(text):
            parts = [part.strip(" ;,") for part in label.sub(" ;; ", text).split(" ;; ")[1:]]
            return " ; ".join(parts) if all(parts) else text
    return text

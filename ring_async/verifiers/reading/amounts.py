r"""A closed number with what stands behind it: `2\pi \text{ cm}`, `9.8\,\mathrm{m\,s^{-2}}`, `4\frac12`, `50\%`.

Owns: where the number ends and its unit begins. Does not own: which units there are (`units`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ring_async.verifiers.reading import units
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate
from ring_async.verifiers.reading.expression import Node, NotAnExpressionError, parse_expression
from ring_async.verifiers.reading.latex import without_text_commands

PERCENT = "percent"
DEGREE = "degree"

_UNIT_START = re.compile(
    r"(?<=[\d)}\]!A-Za-z.])\s*(?=[^\d\s()\[\]{}+\-*/^=,.!<>|\\])|\s*(?=\\(?:text|Omega|mu|AA|ell|frac)(?![A-Za-z]))"
    r"|\s*(?=\^\s*\{?\s*\\circ)|\s+(?=1\s*/)"
)
_PERCENT_SIGN = re.compile(r"\s*(?:%|\\text\s*\{\s*(?:percent|%)\s*\}|percent|pct)\s*$", re.IGNORECASE)
_MARKS = "\\^＄€£¥₹₩₽μΩ"
_MAX_STARTS = 40
_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_DEGREES_AND_MINUTES = re.compile(
    rf"^(-?{_NUMBER})\s*\^\s*\{{?\\circ\}}?\s*({_NUMBER})\s*'(?!')(?:\s*({_NUMBER})\s*(?:''|\"))?$"
)
_TERMS = re.compile(rf"({_NUMBER})\s*([^\d\s.,;&+-][^\d,;&+-]*?)\s*(?:,|;|and|&|\+)?\s*(?=\d|$)")
_MAX_TERMS = 4

IsUnit = Callable[[str, bool, bool], bool]
"""`(unit, was_marked, has_blank)`: whether what stands behind a number is taken for its unit."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A closed number with the unit behind it (empty: none), as `units.plain_unit` writes it."""

    number: Node
    unit: str


def read_amount(text: str, is_unit: IsUnit) -> Amount | None:
    """A closed number, with or without a unit; None where the text is no such thing."""
    whole = closed_number(without_text_commands(text))
    if whole is not None:
        return Amount(whole, "")
    compound = _in_degrees(text) or _compound(without_text_commands(text))
    if compound is not None:
        return compound
    percent = _PERCENT_SIGN.search(text)
    if percent is not None:
        number = closed_number(text[: percent.start()])
        return Amount(number, PERCENT) if number is not None else None
    for count, start in enumerate(_UNIT_START.finditer(text)):
        if count >= _MAX_STARTS:
            break
        rest = text[start.end() :]
        number = closed_number(text[: start.start()].removesuffix(".")) if rest else None
        if number is None:
            continue
        unit = units.plain_unit(rest)
        if not unit or is_unit(unit, rest[0] in _MARKS or not rest[0].isascii(), start.end() > start.start()):
            return Amount(number, unit)
    return None


def _in_degrees(text: str) -> Amount | None:
    r"""`45^{\circ}30'` in degrees."""
    match = _DEGREES_AND_MINUTES.match(text)
    if match is None:
        return None
    degrees, minutes, seconds = Fraction(match[1]), Fraction(match[2]), Fraction(match[3] or 0)
    rest = minutes / 60 + seconds / 3600
    return Amount(Node("number", value=degrees - rest if match[1].startswith("-") else degrees + rest), DEGREE)


def _compound(text: str) -> Amount | None:
    """Several amounts of one kind, the largest unit first, as one: `2 hours 30 minutes` is 2.5 hours."""
    position, total, first, last_size = 0, Fraction(0), "", 0.0
    terms = list(_TERMS.finditer(text)) if len(text) <= units.MAX_UNIT_CHARACTERS else []
    if not 2 <= len(terms) <= _MAX_TERMS:
        return None
    for term in terms:
        unit = units.plain_unit(term[2])
        first = first or unit
        size = 1.0 if unit == first else units.ratio(unit, first)
        if term.start() != position or not size or (last_size and size >= last_size):
            return None
        total += Fraction(term[1]) * Fraction(size).limit_denominator(10**7)
        position, last_size = term.end(), size
    return Amount(Node("number", value=total), first) if position == len(text) else None


def closed_number(text: str) -> Node | None:
    """The tree of a text that is a number, were it too large to be computed; None where it is no number."""
    tree = tree_of(text)
    return tree if tree is not None and _has_value(tree) else None


@lru_cache(maxsize=512)
def tree_of(text: str) -> Node | None:
    """The tree of a formula, or None where the text is none."""
    try:
        return parse_expression(text)
    except (NotAnExpressionError, RecursionError):
        return None


@lru_cache(maxsize=512)
def _has_value(tree: Node) -> bool:
    try:
        approximate(tree)
    except TooLargeError:
        return True
    except (NotClosedError, ArithmeticError, ValueError, TypeError):
        return False
    return True

r"""A closed number with what stands behind it: `2\pi \text{ cm}`, `9.8\,\mathrm{m\,s^{-2}}`, `4\frac12`, `50\%`.

Owns: where the number ends and its unit begins. Does not own: which units there are (`units`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
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
        if not unit or is_unit(unit, rest[0] in _MARKS, start.end() > start.start()):
            return Amount(number, unit)
    return None


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

r"""Quantities of science: a number as people write it, its significant figures, its unit in pint's spelling.

Owns: reading one quantity out of an answer. Does not own: formulas (`reading`), comparing (`stem`).

A number may be a decimal, a power of ten, a fraction, a mixed number, a root, a multiple of π; it may have an
uncertainty, which is passed over. It is not a sum or product that the response left undone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from ring_async.verifiers.reading import units
from ring_async.verifiers.reading.amounts import read_amount
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate
from ring_async.verifiers.reading.expression import Node
from ring_async.verifiers.reading.latex import plain_latex
from ring_async.verifiers.reading.numerals import grouped_reading, plain_numbers

MAX_CHARACTERS = 160
_NAMED = re.compile(r"^(?:\\?[A-Za-z]\w*(?:_\{?\w+\}?)?(?:\s*\([A-Za-z]\))?\s*(?:=|\\approx)\s*)")
_ABOUT = re.compile(r"^(?:\\approx|~|about|approximately|approx\.?|roughly|around|\\sim)\s*", re.IGNORECASE)
_UNCERTAINTY = re.compile(r"\s*(?:\\pm|\+/-|\+-)\s*\d+(?:\.\d+)?(?:\s*%)?")
_IN_BRACKETS = re.compile(r"^\(\s*([-+]?[\d.]+)\s*\)(?=\s*(?:\\times|\S))")
_CURRENCIES = frozenset(["dollar", "dollars", "euro", "euros", "pound", "yuan", "rupee", "won", "ruble", "usd", "eur"])


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written, and its unit (empty: none).

    Example: `1.50 m/s^2` is `Quantity(1.5, 3, "m/s**(2)")`.
    """

    value: float
    figures: int
    """Significant figures it was written with; trailing zeros of a whole number are not counted."""
    unit: str


@lru_cache(maxsize=512)
def read_quantity(text: str) -> Quantity | None:
    r"""A number with an optional unit: `9.81 m/s^2`, `3.0\times 10^{8}\,\text{m/s}`, `25 °C`, `4\frac12`, `2\pi`."""
    if len(text) > MAX_CHARACTERS:
        return None
    plain = _ABOUT.sub("", plain_latex(text))
    plain = _ABOUT.sub("", _NAMED.sub("", plain))
    plain = plain_numbers(grouped_reading(units.move_currency(plain)))
    plain = _IN_BRACKETS.sub(r"\1 ", _UNCERTAINTY.sub("", plain, count=1)).strip()
    amount = read_amount(plain, lambda unit, _was_marked, _has_blank: units.pint_spelling(unit) is not None)
    if amount is None or not _is_done(amount.number):
        return None
    unit = units.pint_spelling(amount.unit)
    try:
        value = approximate(amount.number)
        number = float(value)
    except (TooLargeError, NotClosedError, TypeError, OverflowError):
        return None
    if unit is None or not math.isfinite(number) or (value and not number):
        return None
    return Quantity(number, _figures(amount.number), unit)


def is_currency(unit: str) -> bool:
    """Whether the unit is money, which pint does not know and nobody converts."""
    return unit.casefold() in _CURRENCIES


def _is_done(node: Node) -> bool:
    """Whether a number is written as one, not as a calculation: no sums, no products of plain numbers but with 10^n."""
    if node.kind in ("-", "mod", "!!"):
        return False
    if node.kind == "+":  # a mixed number
        return node.parts[0].kind == "number" and node.parts[1].kind == "/"
    if node.kind == "*":
        left, right = (part.parts[0] if part.kind == "negative" else part for part in node.parts)
        if right.kind == "number" and left.kind in ("number", "*"):
            return False
    return all(_is_done(part) for part in node.parts)


def _figures(node: Node) -> int:
    """Significant figures of the first number in the tree."""
    while node.parts:
        node = node.parts[0]
    digits = (node.text or str(node.value or "")).lstrip("0")
    if "." in digits:
        return len(digits.replace(".", "").lstrip("0"))
    return len(digits.rstrip("0")) or 1

r"""Families of values with a whole number in them: `\frac{\pi}{4} + k\pi, k \in \mathbb{Z}` as the set they are.

Owns: reading such a family, and whether two are the same set. Does not own: sets listed one by one (`shapes`).

Invariant: families are the same if they have the same members in an interval that holds many of each.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

import mpmath

from ring_async.verifiers.reading.amounts import tree_of
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate
from ring_async.verifiers.reading.expression import Node
from ring_async.verifiers.reading.formulas import names_in, with_values
from ring_async.verifiers.reading.latex import without_text_commands
from ring_async.verifiers.reading.shapes import equation_sides, is_name, list_items

_PARAMETER = re.compile(
    r"(?:where|for|with|其中|,|;|\(|\\mid|:|\|)*\s*(?:(?:all|any|every|some)\s+)?(?:integers?\s+)?"
    r"(?P<name>[a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*Z\s*\}?|\\in\s*Z(?![A-Za-z])|(?:is|are|为)\s*(?:an?|any|some)?\s*(?:arbitrary\s*)?"
    r"(?:integers?|整数)|(?:is|=)?\s*(?:an\s+)?(?:any\s+)?integers?)\s*\)?\s*(?P<brace>\\\})?$",
    re.IGNORECASE,
)
_NAMES_INTEGERS = re.compile(r"Z|integer|整数", re.IGNORECASE)
_MAX_DECLARATION = 80
_BUILT = re.compile(r"\\mid(?![A-Za-z])|\||:")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_PERIODS = 12
"""An interval of as many of the longest period, on either side of zero, is compared."""
_MAX_STEPS = 2_000
_MAX_FORMULAS = 6
_PLACES = 9


@dataclass(frozen=True, slots=True)
class Family:
    """Values `start + step · k` for all whole numbers k."""

    start: mpmath.mpf
    step: mpmath.mpf


def families_of(text: str) -> list[Family] | None:
    r"""The families that `x = a + kb, k \in \mathbb{Z}` (or several such) describes; None where it describes none."""
    plain = without_text_commands(text).strip()
    match = _PARAMETER.search(plain, max(0, len(plain) - _MAX_DECLARATION)) if _NAMES_INTEGERS.search(plain) else None
    if match is None or not match.start():
        return None
    body, name = plain[: match.start()].rstrip(" ,;:(").removesuffix("\\mid").rstrip(" ,;|"), match["name"]
    body = body.removeprefix("\\{").strip() if match["brace"] else body
    body = _BUILT.split(body)[-1]
    families = []
    for item in list_items(body)[: _MAX_FORMULAS + 1]:
        sides = equation_sides(re.sub(r"^[A-Za-z]\s*\\in(?![A-Za-z])", "", item).strip())
        if len(sides) > 2 or (len(sides) == 2 and not is_name(sides[0])):
            return None
        family = _family(sides[-1].strip().removeprefix("\\{").removesuffix("\\}"), name)
        if family is None:
            return None
        families.append(family)
    return families if 0 < len(families) <= _MAX_FORMULAS else None


def are_same_families(one: list[Family], other: list[Family]) -> bool:
    """Whether two lists of families hold the same values."""
    steps = [abs(family.step) for family in (*one, *other)]
    reach = max(steps) * _PERIODS
    if reach / min(steps) * 2 > _MAX_STEPS:
        return False
    return _members(one, reach) == _members(other, reach)


def _family(text: str, name: str) -> Family | None:
    r"""`a + kb` by its values at four whole numbers; None where it is not linear in k, or has other letters."""
    tree = tree_of(_DEGREES.sub(r" \\cdot \\frac{\\pi}{180} ", text))
    if tree is None or name not in names_in(tree):
        return None
    values = [_value(tree, name, k) for k in range(4)]
    if None in values:
        return None
    steps = [later - earlier for earlier, later in itertools.pairwise(values)]  # type: ignore[operator]
    if not steps[0] or any(abs(step - steps[0]) > abs(steps[0]) * mpmath.mpf("1e-12") for step in steps):
        return None
    return Family(values[0], steps[0])  # type: ignore[arg-type]


def _value(tree: Node, name: str, number: int) -> mpmath.mpf | None:
    try:
        value = approximate(with_values(tree, {name: Fraction(number)}))
        return mpmath.mpf(value.numerator) / value.denominator if hasattr(value, "numerator") else mpmath.mpf(value)
    except (NotClosedError, TooLargeError, TypeError, ValueError, ArithmeticError):
        return None


def _members(families: list[Family], reach: mpmath.mpf) -> set[int]:
    """The members between -reach and reach, in billionths of the reach; its ends are left out."""
    members = set()
    for family in families:
        first = int(mpmath.ceil((-reach - family.start) / abs(family.step)))
        last = int(mpmath.floor((reach - family.start) / abs(family.step)))
        for number in range(first, last + 1):
            share = (family.start + number * abs(family.step)) / reach
            if abs(share) < 1 - mpmath.mpf("1e-6"):
                members.add(int(mpmath.nint(share * 10**_PLACES)))
    return members

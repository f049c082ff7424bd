r"""Chains of equalities: what `x = 2+3 = 5` says the value is, and whether it says what is false.

Owns: deciding about sides. Does not own: finding them (`shapes.equation_sides`).
"""

from __future__ import annotations

import re

from ring_async.verifiers.reading.amounts import closed_number
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate, is_same_number
from ring_async.verifiers.reading.latex import without_text_commands
from ring_async.verifiers.reading.shapes import is_name

_MAX_ROUNDING = 0.05
"""Relative: numbers that a response calls about equal, or equal in decimals, differ by no more."""

_ARGUMENT = re.compile(r"^[A-Za-z]\s*\(\s*([A-Za-z])\s*\)$")
_RESIDUE = re.compile(
    r"^(?:[A-Za-z]\s*(?:\\equiv|=)\s*)?(-?\d{1,18})\s*[,(\\]*\s*(?:pmod|bmod|mod)\s*[{(\s]*(\d{1,18})[\s)}]*$"
)
_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")


def value_of_chain(sides: list[str]) -> str | None:
    """What a chain of equalities says the value is: its last side that is no name. None where it says what is false."""
    if len(sides) == 1:
        return sides[0]
    values = [side for side in sides if not is_name(side)]
    if not values:
        return sides[-1]
    closed = [number for side in values if (number := closed_number(side)) is not None]
    try:
        is_true = all(is_same_number(closed[0], number) for number in closed[1:])
    except (TooLargeError, NotClosedError):
        return values[-1]
    is_rounded = any("." in side for side in values)
    return values[-1] if is_true or (is_rounded and are_close(values)) else None


def residue_of(text: str) -> tuple[int, int] | None:
    r"""Residue and modulus of `x \equiv 7 \pmod{3}`, so 1 and 3; None where the text names no such whole numbers."""
    match = _RESIDUE.match(without_text_commands(text))
    if match is None or not int(match[2]):
        return None
    return int(match[1]) % int(match[2]), int(match[2])


def sides_of_approximation(text: str) -> list[str]:
    r"""What stands between the `\approx` signs."""
    return [part.strip() for part in _APPROXIMATELY.split(text) if part.strip()]


def are_close(sides: list[str]) -> bool:
    """Whether the sides that are numbers may be roundings of one another."""
    values = [number for side in sides if (number := closed_number(side)) is not None]
    try:
        floats = [float(approximate(number)) for number in values]
    except (TooLargeError, NotClosedError, TypeError, OverflowError):
        return False
    return all(abs(value - floats[0]) <= _MAX_ROUNDING * abs(floats[0]) for value in floats)


def with_argument_of(gold_sides: list[str], sides: list[str]) -> list[str]:
    """`f(t) = t^2` in the letter that the reference uses for its argument."""
    argument, gold_argument = _ARGUMENT.match(sides[0]), _ARGUMENT.match(gold_sides[0])
    if argument is None or gold_argument is None or argument[1] == gold_argument[1]:
        return sides
    letter = re.compile(rf"(?<![A-Za-z\\]){argument[1]}(?![A-Za-z])")
    return [letter.sub(gold_argument[1], side) for side in sides]

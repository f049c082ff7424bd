"""Whether a program's output is the expected one.

Owns: comparing text line by line and values as plain data. Does not own: running.

Numbers are exact where both are integers, in text and in values, whatever the tolerance: an integer off by one is
wrong. A tolerance is for numbers with a fraction or an exponent on either side. Python's own equalities hold: `1`,
`1.0` and `True` are equal. nan equals nan. A set equals a list that holds its elements in sorted order.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ring_async.sandbox.harness import SET_KEY

_MAX_DIGITS = 4300
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")


class UnreadableValueError(ValueError):
    """What a program wrote as its value is not JSON."""


def is_same_text(printed: str, expected: str, tolerance: float) -> bool:
    """Compare outputs without trailing blanks of lines and trailing empty lines.

    Args:
        printed: by the program.
        expected: by the test.
        tolerance: relative and absolute error allowed between numbers that stand in the same place of the same line.
    """
    lines, wanted = _lines(printed), _lines(expected)
    if lines == wanted:
        return True
    if tolerance <= 0 or len(lines) != len(wanted):
        return False
    return all(_is_same_line(*pair, tolerance) for pair in zip(lines, wanted, strict=True))


def read_value(text: str) -> Any:
    """A value as the harness told it. Integers too long to convert stay text, marked as such.

    Raises:
        UnreadableValueError: it is no JSON.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise UnreadableValueError(str(error)) from error


def plain(expected: Any) -> Any:
    """An expected value as `read_value` would give it: tuples are lists, keys are text.

    Raises:
        TypeError: it is not plain data.
    """
    if expected is None or isinstance(expected, str | int | float):
        return expected
    if isinstance(expected, dict):
        return {str(key): plain(item) for key, item in expected.items()}
    if isinstance(expected, list | tuple):
        return [plain(item) for item in expected]
    raise TypeError(f"{type(expected).__name__} is not plain data")


def is_same_value(value: Any, expected: Any, tolerance: float) -> bool:
    """Compare plain data, with a relative and absolute tolerance between numbers."""
    if isinstance(value, dict) and value.keys() == {SET_KEY}:
        elements = value[SET_KEY]
        if is_same_value(elements, expected, tolerance):
            return True
        return is_same_value(_sorted(elements), expected, tolerance)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(
            is_same_value(*pair, tolerance) for pair in zip(value, expected, strict=True)
        )
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            is_same_value(value[key], expected[key], tolerance) for key in value
        )
    if isinstance(value, float) or isinstance(expected, float):
        return _is_close(value, expected, tolerance)
    return bool(value == expected)


def in_any_order(value: Any) -> Any:
    """A list, or a set, in an order that depends on its elements alone; other values as they are."""
    if isinstance(value, dict) and value.keys() == {SET_KEY}:
        value = value[SET_KEY]
    return sorted(value, key=lambda item: json.dumps(item, sort_keys=True)) if isinstance(value, list) else value


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else f"\0integer {text}"


def _sorted(elements: Any) -> Any:
    try:
        return sorted(elements)
    except TypeError:
        return elements


def _is_close(value: Any, expected: Any, tolerance: float) -> bool:
    numbers = (value, expected)
    if not all(isinstance(number, int | float) for number in numbers):
        return False
    if all(isinstance(number, float) and math.isnan(number) for number in numbers):
        return True
    if value == expected:
        return True
    try:
        is_finite = math.isfinite(value) and math.isfinite(expected)
        return is_finite and math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond floats
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _is_same_line(line: str, wanted: str, tolerance: float) -> bool:
    tokens, wanted_tokens = line.split(), wanted.split()
    return len(tokens) == len(wanted_tokens) and all(
        _is_same_token(*pair, tolerance) for pair in zip(tokens, wanted_tokens, strict=True)
    )


def _is_same_token(token: str, wanted: str, tolerance: float) -> bool:
    if token == wanted or token.lower() == wanted.lower() == "nan":
        return True
    if not _NUMBER.fullmatch(token) or not _NUMBER.fullmatch(wanted):
        return False
    if _INTEGER.fullmatch(token) and _INTEGER.fullmatch(wanted):
        return _digits(token) == _digits(wanted)
    return _is_close(float(token), float(wanted), tolerance)


def _digits(integer: str) -> str:
    """An integer without its plus sign and leading zeros."""
    digits = integer.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if integer.startswith("-") and digits != "0" else digits

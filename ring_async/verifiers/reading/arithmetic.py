r"""The value of a closed formula, exactly where it is rational, otherwise to as many digits as a decision needs.

Owns: evaluation within limits of size, and when two numbers are the same one. Does not own: reading (`expression`).

Invariants: no intermediate value has more than `MAX_BITS` bits, so that every single operation ends within
milliseconds; what would be larger raises `TooLargeError`. Equality is decided by values, never by how close two floats
are: `1/2^{99}` is not `1/2^{98}`, and `e^{-1000}` is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

from ring_async.verifiers.reading.expression import Node

MAX_BITS = 100_000
_MAX_FACTORIAL = 5_000
_MAX_EXPONENTIAL = 100_000
_MAX_ANGLE_BITS = 200
_DIGITS = (60, 130)
"""Two precisions: what is left of a difference that is zero changes with the precision, a true difference does not."""

Value = Any
"""A `Fraction` where the value is rational by construction, else an mpmath number of the precision in force."""


class TooLargeError(ValueError):
    """The value, or one on the way to it, is too large to be computed."""


class NotClosedError(ValueError):
    """The formula has a variable in it, or no value."""


def evaluate(node: Node, *, log_base: int = 0) -> Value:
    """The value of a closed tree, at mpmath's precision in force.

    Args:
        node: from `parse_expression`.
        log_base: of a logarithm that names none; 0 is the natural one.

    Raises:
        TooLargeError: a value on the way has more than `MAX_BITS` bits.
        NotClosedError: a variable, a division by zero, or a function without a value there.
    """
    try:
        return _evaluated(node, log_base)
    except (ZeroDivisionError, OverflowError, mpmath.libmp.ComplexResult) as error:
        raise NotClosedError(str(error)) from error


def is_same_number(left: Node, right: Node) -> bool:
    """Whether two closed trees have the same value, whatever way they are written.

    A logarithm without a base may be the natural or the decimal one, as long as both sides then agree.

    Raises:
        TooLargeError, NotClosedError: as `evaluate`.
    """
    return any(has_same_value(left, right, base) for base in ((0, 10) if _has_log(left) or _has_log(right) else (0,)))


def approximate(node: Node) -> Value:
    """A value to 60 digits, or the exact fraction.

    Raises:
        TooLargeError, NotClosedError: as `evaluate`.
    """
    with mpmath.workdps(_DIGITS[0]):
        return evaluate(node)


def has_same_value(left: Node, right: Node, log_base: int = 0, *, is_real: bool = False) -> bool:
    """Whether two closed trees have one value; `is_real`: no value where one of them is not real.

    Raises:
        TooLargeError, NotClosedError: as `evaluate`.
    """
    differences = []
    for digits in _DIGITS:
        with mpmath.workdps(digits):
            one, other = evaluate(left, log_base=log_base), evaluate(right, log_base=log_base)
            if is_real and not (_is_real(one) and _is_real(other)):
                raise NotClosedError("a branch of a complex function")
            if isinstance(one, Fraction) and isinstance(other, Fraction):
                return one == other
            difference = abs(_real(one) - _real(other))
            if not mpmath.isfinite(difference):
                return False
            scale = max(abs(_real(one)), abs(_real(other)), mpmath.mpf(1))
            if difference > scale * mpmath.mpf(10) ** (-digits * 3 // 4):
                return False
            differences.append(difference)
    rough, fine = differences
    return bool(rough == 0 or abs(rough - fine) > rough / 1000)


def _evaluated(node: Node, log_base: int) -> Value:
    kind = node.kind
    if kind == "number":
        return node.value
    if kind == "name":
        return _constant(node.text)
    values = [_evaluated(part, log_base) for part in node.parts]
    if kind in _OPERATIONS:
        return _bounded(_OPERATIONS[kind](*values))
    if kind in ("ln", "log", "lg", "exp", *_TRANSCENDENTAL):
        return _function(kind, values, log_base)
    raise NotClosedError(kind)


def _constant(name: str) -> Value:
    if name == "pi":
        return +mpmath.pi
    if name == "e":
        return +mpmath.e
    if name in ("i", "imath"):
        return mpmath.mpc(0, 1)
    raise NotClosedError(name)


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
            raise TooLargeError("a number with too many digits")
    elif not mpmath.isfinite(value) or (value and abs(mpmath.mag(value)) > MAX_BITS):
        raise TooLargeError("a number of too large a size")
    return value


def _is_real(value: Value) -> bool:
    return isinstance(value, Fraction | mpmath.mpf)


def _real(value: Value) -> Value:
    """An mpmath number of the precision in force."""
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _both(operation: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def apply(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return operation(left, right)
        return operation(_real(left), _real(right))

    return apply


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            return _integer_power(base, exponent.numerator)
        root = _exact_root(base, exponent.denominator)
        if root is not None:
            return _integer_power(root, exponent.numerator)
    base, exponent = _real(base), _real(exponent)
    if base == 0:
        if mpmath.re(exponent) > 0:
            return Fraction(0)
        raise NotClosedError("0 to such a power")
    if abs(exponent) * (abs(mpmath.mag(base)) + 1) > MAX_BITS:
        raise TooLargeError("a power of too large a size")
    return mpmath.power(base, exponent)


def _integer_power(base: Fraction, exponent: int) -> Fraction:
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise NotClosedError("0 to such a power")
        return base if base >= 0 or exponent % 2 else -base
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > MAX_BITS:
        raise TooLargeError("a power with too many digits")
    return base**exponent


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root, if there is one and the value is not negative."""
    if value < 0 or degree > 64:
        return None
    roots = [_integer_root(value.numerator, degree), _integer_root(value.denominator, degree)]
    return None if None in roots else Fraction(roots[0], roots[1])  # type: ignore[arg-type]


def _integer_root(number: int, degree: int) -> int | None:
    root = math.isqrt(number) if degree == 2 else int(mpmath.nint(mpmath.root(number, degree)))
    return root if root**degree == number else None


def _root(value: Value, degree: Value = Fraction(2)) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 0 < degree <= 1000:
        raise NotClosedError("a root of such a degree")
    if isinstance(value, Fraction):
        if value < 0 and degree % 2:
            return -_root(-value, degree)
        exact = _exact_root(value, degree.numerator)
        if exact is not None:
            return exact
    number = _real(value)
    return mpmath.sqrt(number) if degree == 2 else mpmath.root(number, degree.numerator)


def _whole(value: Value, limit: int) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise NotClosedError("not a whole number")
    if abs(value) > limit:
        raise TooLargeError("a whole number that is too large here")
    return value.numerator


def _factorial(value: Value) -> Fraction:
    number = _whole(value, _MAX_FACTORIAL)
    if number < 0:
        raise NotClosedError("the factorial of a negative number")
    return Fraction(math.factorial(number))


def _double_factorial(value: Value) -> Fraction:
    number = _whole(value, _MAX_FACTORIAL)
    if number < -1:
        raise NotClosedError("the double factorial of a negative number")
    return Fraction(math.prod(range(number, 0, -2)))


def _binomial(above: Value, below: Value) -> Fraction:
    total, chosen = _whole(above, 10**18), _whole(below, 10**18)
    if total < 0 or chosen < 0:
        raise NotClosedError("a binomial coefficient of negative numbers")
    chosen = min(chosen, total - chosen)
    if chosen < 0:
        return Fraction(0)
    if chosen * max(total, 1).bit_length() > MAX_BITS:
        raise TooLargeError("a binomial coefficient with too many digits")
    return Fraction(math.comb(total, chosen))


def _floor(value: Value) -> Fraction:
    return Fraction(math.floor(value)) if isinstance(value, Fraction) else Fraction(int(mpmath.floor(value)))


def _ceiling(value: Value) -> Fraction:
    return Fraction(math.ceil(value)) if isinstance(value, Fraction) else Fraction(int(mpmath.ceil(value)))


def _remainder(value: Value, modulus: Value) -> Fraction:
    return Fraction(_whole(value, 1 << MAX_BITS) % _whole(modulus, 1 << MAX_BITS))


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "+": _both(lambda left, right: left + right),
    "-": _both(lambda left, right: left - right),
    "*": _both(lambda left, right: left * right),
    "/": _both(lambda left, right: left / right),
    "negative": lambda value: -value,
    "group": lambda value: value,
    "^": _power,
    "sqrt": _root,
    "!": _factorial,
    "!!": _double_factorial,
    "binomial": _binomial,
    "abs": abs,
    "floor": _floor,
    "ceil": _ceiling,
    "mod": _remainder,
}
_TRANSCENDENTAL: dict[str, Callable[[Value], Value]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "cis": mpmath.expj,
}  # fmt: skip


def _function(name: str, values: list[Value], log_base: int) -> Value:
    argument = _real(values[0])
    if argument and mpmath.mag(argument) > _MAX_ANGLE_BITS and name not in ("ln", "log", "lg"):
        raise TooLargeError(f"{name} of a number that is too large")
    if name in ("exp", "sinh", "cosh", "tanh") and abs(argument) > _MAX_EXPONENTIAL:
        raise TooLargeError(f"{name} of a number that is too large")
    if name in _TRANSCENDENTAL:
        return _TRANSCENDENTAL[name](argument)
    if name == "exp":
        return mpmath.exp(argument)
    if argument == 0:
        raise NotClosedError("the logarithm of 0")
    if name == "lg" or (name == "log" and len(values) == 1 and log_base):
        return mpmath.log(argument, 10)
    return mpmath.log(argument) / mpmath.log(_real(values[1])) if len(values) > 1 else mpmath.log(argument)


def _has_log(node: Node) -> bool:
    return (node.kind == "log" and len(node.parts) == 1) or any(_has_log(part) for part in node.parts)

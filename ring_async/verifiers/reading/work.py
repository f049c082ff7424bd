r"""How much work a formula would be: an estimate beforehand, and a budget of processor time while it is done.

Owns: both guards. Does not own: what becomes of a formula that is too much (a verdict about the response, `math`).

The estimate goes by the size of values (bits of the largest number) and by the number of terms that expanding would
make, not by how many digits or letters are written: `2^{2024}` is small, `\binom{99999999}{49999999}` is not. It is
what keeps single operations short, since nothing stops a power of whole numbers half-way. The budget stops what
consists of many short operations: simplification, integrals, limits.

Rejected: a deadline in wall time, since a busy machine would then decide about answers.
"""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate
from ring_async.verifiers.reading.expression import Node, NotAnExpressionError, parse_expression

MAX_VALUE_BITS = 50_000
MAX_TERMS = 1_000
_CLOSED_LIMIT = 1e9
_SUSPICIOUS = re.compile(r"\^[\s({]*-?\s*\d{3,}|\^[^^]{0,40}\^|\d{4,}[\s)}]*!|!\s*[)}]*\s*!|binom")
_FIVE_DIGITS = re.compile(r"\d{5}")
"""Such a number and a factorial are refused in one formula: a library may bring them together all the same."""
_RANGE = re.compile(r"\\(?:sum|prod|lim|int)(?![A-Za-z])")
_REPEATS_S = 0.1


class OutOfWorkError(BaseException):
    """The budget of processor time is used up. Not an `Exception`, so that no library takes it for one of its own."""


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a formula: bits of the largest value (log2), and the terms and degree of its expanded form."""

    bits: float = 0.0
    terms: float = 1.0
    degree: float = 0.0


def is_affordable(text: str) -> bool:
    """Whether an algebra system may be given the formula: no value and no expansion in it would be too large.

    What cannot be read here is judged by the look of its powers, factorials and binomials alone.
    """
    if "!" in text and _FIVE_DIGITS.search(text):
        return False
    try:
        tree = parse_expression(text, lenient=True)
        if _RANGE.search(text) and _has_tower(tree):
            return False
        size = _size(tree)
    except NotAnExpressionError:
        return not _SUSPICIOUS.search(text)
    except (OverflowError, RecursionError):
        return False
    return size.bits <= MAX_VALUE_BITS and size.terms <= MAX_TERMS


@contextmanager
def cpu_budget(seconds: float) -> Iterator[None]:
    """Let the block use this much processor time of its process; then it ends with `OutOfWorkError`.

    Works in a main thread, which a worker process judges in; elsewhere the caller's deadline is the only limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise OutOfWorkError

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _REPEATS_S)
    try:
        yield
    finally:
        while True:
            try:
                signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
                break
            except OutOfWorkError:  # it rang just here; the timer is still to be taken down
                pass
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, previous)


@contextmanager
def outside_budget() -> Iterator[None]:
    """Let the block's processor time not count: a library that is loaded on its first use is no response's work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    remaining = signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *remaining)


def _has_tower(node: Node, *, is_above: bool = False) -> bool:
    """Whether a power of a number, or a factorial, stands in the exponent of another or below its factorial.

    A sum or product puts numbers in for its letter, so that there even a tower of letters gets large.
    """
    is_growing = node.kind in ("!", "!!") or (node.kind == "^" and (_closed(node.parts[0]) or 0.0) > 1)
    if is_growing and is_above:
        return True
    if node.kind == "^":
        return _has_tower(node.parts[0], is_above=is_above) or _has_tower(
            node.parts[1], is_above=is_growing or is_above
        )
    return any(_has_tower(part, is_above=is_growing or is_above) for part in node.parts)


def _size(node: Node) -> _Size:
    if node.kind == "number":
        return _Size(_bits(float(node.value or 0)))
    if node.kind == "name":
        return _Size(degree=1.0)
    if node.kind == "^":
        return _power_size(*node.parts)
    if node.kind in ("!", "!!"):
        (number,) = node.parts
        value = _closed(number)
        inner = _size(number)
        if value is None:
            return inner
        return _Size(max(inner.bits, abs(value) * _bits(value)), inner.terms, inner.degree)
    if node.kind == "binomial":
        return _binomial_size(*node.parts)
    sizes = [_size(part) for part in node.parts]
    if node.kind in ("*", "/"):
        left, right = sizes
        return _Size(left.bits + right.bits, _product(left.terms, right.terms), left.degree + right.degree)
    if node.kind in ("+", "-"):
        left, right = sizes
        return _Size(max(left.bits, right.bits) + 1, left.terms + right.terms, max(left.degree, right.degree))
    if node.kind == "exp" and sizes:
        value = _closed(node.parts[0])
        if value is None or abs(value) > MAX_VALUE_BITS:
            return _Size(max(sizes[0].bits, math.inf if value is not None else 0.0), sizes[0].terms, sizes[0].degree)
    return _Size(
        max((size.bits for size in sizes), default=0.0),
        max((size.terms for size in sizes), default=1.0),
        max((size.degree for size in sizes), default=0.0),
    )


def _power_size(base: Node, exponent: Node) -> _Size:
    size, power = _size(base), _size(exponent)
    value = _closed(exponent)
    if value is None:  # a variable in the exponent: nothing is multiplied out, but the exponent itself has a size
        return _Size(max(size.bits, power.bits), max(size.terms, power.terms), size.degree + power.degree)
    times = abs(value)
    bits = size.bits * times if not _is_unit(base) else 1.0
    if base.kind == "name" and base.text == "e":
        bits = times * 2
    terms = _expanded_terms(size.terms, times)
    if size.degree and times > 10 * MAX_TERMS:
        terms = math.inf
    return _Size(max(bits, power.bits), max(terms, power.terms), size.degree * times)


def _binomial_size(above: Node, below: Node) -> _Size:
    total, chosen = _closed(above), _closed(below)
    inner = [_size(above), _size(below)]
    terms = max(size.terms for size in inner)
    if total is None and chosen is None:
        return _Size(max(size.bits for size in inner), terms, sum(size.degree for size in inner))
    if total is None or chosen is None:  # a polynomial of that degree
        degree = abs(total if total is not None else chosen or 0.0)
        return _Size(degree * _bits(degree), max(terms, degree * degree), degree)
    few = min(abs(chosen), abs(total - chosen))
    return _Size(min(few * _bits(total), abs(total)) + _bits(few))


def _closed(node: Node) -> float | None:
    """A closed formula's value as a float; infinite where that is too large; None where it has variables."""
    try:
        value = approximate(node)
    except TooLargeError:
        return math.inf
    except (NotClosedError, ValueError, TypeError, ArithmeticError):
        return None
    try:
        number = float(abs(value))
    except (OverflowError, TypeError):
        return math.inf
    return number if number <= _CLOSED_LIMIT else math.inf


def _is_unit(node: Node) -> bool:
    return _closed(node) in (0.0, 1.0)


def _bits(number: float) -> float:
    return math.log2(abs(number) + 1) if math.isfinite(number) else math.inf


def _product(left: float, right: float) -> float:
    return min(left * right, math.inf)


def _expanded_terms(terms: float, times: float) -> float:
    """Terms of a sum of `terms` taken to the power `times`."""
    if terms <= 1 or times <= 1:
        return terms
    if not math.isfinite(terms) or not math.isfinite(times):
        return math.inf
    if times != int(times):
        return terms
    # comb(times + terms - 1, terms - 1)
    log = math.lgamma(times + terms) - math.lgamma(terms) - math.lgamma(times + 1)
    return math.exp(log) if log < 600 else math.inf

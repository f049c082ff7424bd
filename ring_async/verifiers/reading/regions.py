r"""Sets of numbers that inequalities describe: `0 < x \le 2` is `(0, 2]`, `x < -1, x > 1` two half-lines.

Owns: reading inequalities in one variable, alone and several. Does not own: intervals written as such (`shapes`).

Invariant: several inequalities in one variable are their intersection, unless `or` stands between them or it is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from ring_async.verifiers.reading.amounts import closed_number
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate
from ring_async.verifiers.reading.shapes import AND_OR, BUILT, NAME, Shape, split_outside, without_points

_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>")
_VARIABLE = re.compile(rf"^\s*(?:{NAME})\s*$")
_ABSOLUTE = re.compile(rf"^\s*\|\s*({NAME})\s*\|\s*$")
_UNEQUAL = re.compile(r"\\ne(?![A-Za-z])")
_OR = re.compile(r"or|或|\\vee|\\cup")
_MAX_ITEMS = 8


@dataclass(frozen=True, slots=True)
class _Piece:
    """An interval whose ends are numbers: texts, values, and whether it holds them."""

    ends: tuple[str, str]
    values: tuple[Any, Any]
    is_closed: tuple[bool, bool]


def interval_of(text: str) -> Shape | None:
    r"""The set that an inequality in one variable describes: `0 < x \le 2` is `(0, 2]`. None: it is none."""
    unequal = _UNEQUAL.split(text)
    if len(unequal) == 2 and unequal[1].strip() and _VARIABLE.match(unequal[0]):
        return without_points([unequal[1].strip()])
    relations = _RELATION.findall(text)
    if not 1 <= len(relations) <= 2:
        return None
    parts = [part.strip() for part in _RELATION.split(text)]
    if not all(parts):
        return None
    if len(parts) == 3:
        upward = all(relation in ("<", "\\le") for relation in relations)
        if not _VARIABLE.match(parts[1]) or not (upward or all(relation in (">", "\\ge") for relation in relations)):
            return None
        ends, signs = ((parts[0], parts[2]), relations) if upward else ((parts[2], parts[0]), relations[::-1])
        return _interval(ends, (signs[0] in ("\\le", "\\ge"), signs[1] in ("\\le", "\\ge")))
    left, right = parts
    (relation,) = relations
    is_closed = relation in ("\\le", "\\ge")
    size = _ABSOLUTE.match(left)
    if size is not None and relation in ("<", "\\le"):
        return _interval((f"-({right})", right), (is_closed, is_closed))
    if size is not None:
        outer = (
            _interval(("-\\infty", f"-({right})"), (False, is_closed)),
            _interval((right, "\\infty"), (is_closed, False)),
        )
        return Shape("union", tuple(map(_written, outer)))
    if not _VARIABLE.match(left):
        if not _VARIABLE.match(right):
            return None
        left, right = right, left
        relation = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[relation]
    if relation in ("<", "\\le"):
        return _interval(("-\\infty", right), (False, is_closed))
    return _interval((right, "\\infty"), (is_closed, False))


def region_of(text: str) -> Shape | None:
    r"""The set of one or more inequalities: `x < 1 \text{ or } x > 3` is a union, `x > 1, x < 3` an interval."""
    built = re.match(r"^\\\{(.*)\\\}$", text.strip(), re.DOTALL)
    if built is not None:
        halves = split_outside(built[1], BUILT)
        text = halves[1] if len(halves) == 2 else text
    items = [
        item for item in split_outside(AND_OR.sub(" ; ", text), re.compile(r"[,;]|\\wedge|\\vee|\\cup")) if item.strip()
    ]
    if len(items) > 1 and _UNEQUAL.search(items[0]) and not any(map(_is_relation, items[1:])):  # x \\ne 1, 2
        items = [items[0], *(f"{_subject(items[0])} \\ne {item}" for item in items[1:])]
    if not items or len(items) > _MAX_ITEMS or len({_subject(item) for item in items}) > 1:
        return None
    regions = [interval_of(item) for item in items]
    found = [region for region in regions if region is not None]
    if len(found) != len(regions):
        return None
    return found[0] if len(found) == 1 else _together(found, is_or=_OR.search(text) is not None)


def _together(regions: list[Shape], *, is_or: bool) -> Shape | None:
    pieces = [_pieces_of(region) for region in regions]
    if not is_or and None not in pieces:
        met = pieces[0]
        for others in pieces[1:]:
            met = [both for one in met or () for other in others or () if (both := _intersection(one, other))]
        if met:
            shapes = [_interval(piece.ends, piece.is_closed) for piece in met]
            return shapes[0] if len(shapes) == 1 else Shape("union", tuple(map(_written, shapes)))
    if any(region.kind == "union" for region in regions):
        return None
    if len(regions) == 2 and not is_or and None in pieces:  # ends with letters in them
        lower = [region for region in regions if region.parts[1] == "\\infty"]
        upper = [region for region in regions if region.parts[0] == "-\\infty"]
        if len(lower) == len(upper) == 1:
            ends = (lower[0].parts[0], upper[0].parts[1])
            return _interval(ends, (lower[0].brackets[0] == "[", upper[0].brackets[1] == "]"))
    return Shape("union", tuple(_written(region) for region in regions))


def _is_relation(item: str) -> bool:
    return bool(_RELATION.search(item) or _UNEQUAL.search(item))


def _subject(item: str) -> str:
    """The variable that an inequality is about; empty where none stands alone."""
    parts = [part.strip() for part in re.split(f"{_RELATION.pattern}|{_UNEQUAL.pattern}", item)]
    for part in parts[1:2] if len(parts) == 3 else parts:
        size = _ABSOLUTE.match(part)
        if size or _VARIABLE.match(part):
            return size[1] if size else part
    return ""


def _pieces_of(region: Shape) -> list[_Piece] | None:
    """The intervals of a set; None where an end is no number."""
    texts = region.parts if region.kind == "union" else (_written(region),)
    pieces = []
    for text in texts:
        ends = tuple(end.strip() for end in split_outside(text[1:-1], re.compile(",")))
        values = tuple(_value(end) for end in ends)
        if len(ends) != 2 or None in values:
            return None
        pieces.append(_Piece(ends, values, (text[0] == "[", text[-1] == "]")))  # type: ignore[arg-type]
    return pieces


def _value(end: str) -> Any | None:
    if end.lstrip("+-").strip() == "\\infty":
        return mpmath.mpf("-inf" if end.startswith("-") else "inf")
    number = closed_number(end)
    try:
        value = approximate(number) if number is not None else None
    except (NotClosedError, TooLargeError):
        return None
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value if isinstance(value, mpmath.mpf) else None


def _intersection(one: _Piece, other: _Piece) -> _Piece | None:
    lower = max((one, other), key=lambda piece: (piece.values[0], not piece.is_closed[0]))
    upper = min((one, other), key=lambda piece: (piece.values[1], piece.is_closed[1]))
    is_closed = lower.is_closed[0], upper.is_closed[1]
    if lower.values[0] > upper.values[1] or (lower.values[0] == upper.values[1] and not all(is_closed)):
        return None
    return _Piece((lower.ends[0], upper.ends[1]), (lower.values[0], upper.values[1]), is_closed)


def _interval(ends: tuple[str, str], is_closed: tuple[bool, bool]) -> Shape:
    brackets = ("[" if is_closed[0] else "(") + ("]" if is_closed[1] else ")")
    return Shape({"()": "tuple", "[]": "square"}.get(brackets, "half"), ends, brackets)


def _written(region: Shape) -> str:
    return f"{region.brackets[0]}{region.parts[0]}, {region.parts[1]}{region.brackets[1]}"

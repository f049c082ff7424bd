r"""Whether two mathematical answers are the same, written down as texts.

Owns: the order of questions asked about a pair (the same text? choice? words? inequality? equation? list or value?),
and how lists, sets, tuples, intervals and matrices are compared. Does not own: reading texts (`reading`), single
values (`values`), rewards (`math`).

Invariants: equal texts are equal before any guard. Lists are compared as written: repeated items count, the order
counts where brackets say so, and what an ellipsis leaves out is not guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ring_async.verifiers.reading.alternatives import readings
from ring_async.verifiers.reading.amounts import closed_number
from ring_async.verifiers.reading.chains import (
    are_close,
    residue_of,
    sides_of_approximation,
    value_of_chain,
    with_argument_of,
)
from ring_async.verifiers.reading.families import are_same_families, families_of
from ring_async.verifiers.reading.latex import squeezed
from ring_async.verifiers.reading.moments import same_moment
from ring_async.verifiers.reading.numerals import decimal_comma_reading
from ring_async.verifiers.reading.regions import region_of
from ring_async.verifiers.reading.shapes import Shape, equation_sides, is_name, shape_of
from ring_async.verifiers.reading.words import (
    is_words,
    letters_in,
    names_choice,
    same_choice,
    same_words,
    value_behind_choice,
)
from ring_async.verifiers.rules import values
from ring_async.verifiers.rules.values import ValueEquality

MAX_CHARACTERS = 4000
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
"""What most answers are: nothing else is asked about two of them."""
_INDEX = re.compile(r"_\{?\d\}?$")
_POINT = re.compile(r"^(?:\\text\s*\{\s*[Pp]oint\s*\}\s*)?[A-Z]'?\s*(?:_\{?\d\}?)?\s*(?=\()")
_MAX_UNORDERED_ALGEBRA = 12


@dataclass(frozen=True)
class Equality:
    r"""Compares answers; `values` says how strictly.

    Example: `Equality().holds("(-\\infty, 3)", "x < 3")` is true, and `holds("1, 1, 2", "1, 2")` is not.
    """

    values: ValueEquality = field(default_factory=ValueEquality)

    def holds(self, gold: str, answer: str) -> bool:
        """Whether the answer is the reference, as far as rules and algebra can tell."""
        if len(answer) > MAX_CHARACTERS or len(gold) > MAX_CHARACTERS:
            return False
        if _NUMBER.fullmatch(gold) and _NUMBER.fullmatch(answer):
            return self.values.holds(gold, answer)
        golds, answers = readings(gold), readings(answer)
        if any(squeezed(one) == squeezed(other) for one in golds for other in answers):
            return True
        chosen = same_choice(golds[0], answers[0])
        behind = value_behind_choice(golds[0]) if not chosen and not names_choice(answers[0]) else None
        if behind is not None:
            return self.holds(behind, answer)
        if chosen is not None:
            return chosen
        if _has_decimal_point(golds[0]):
            answers = tuple(dict.fromkeys([*answers, *map(decimal_comma_reading, answers)]))
        return any(self._is_same(one, other) for one in golds for other in answers)

    def _is_same(self, gold: str, answer: str, depth: int = 0) -> bool:
        if squeezed(gold) == squeezed(answer):
            return True
        if not gold or not answer or depth > 4:
            return False
        gold_families, families = families_of(gold), families_of(answer)
        if gold_families is not None and families is not None:
            return are_same_families(gold_families, families)
        gold_residue, residue = residue_of(gold), residue_of(answer)
        if gold_residue is not None and residue is not None:
            return gold_residue == residue
        moment = same_moment(gold, answer)
        words = same_words(gold, answer) if moment is None else moment
        if words is not None:
            return words
        region = self._is_same_region(gold, answer, depth)
        if region is not None:
            return region
        equation = self._is_same_equation(gold, answer, depth)
        if equation is not None:
            return equation
        gold_shape, shape = shape_of(gold), shape_of(answer)
        if gold_shape.kind == shape.kind == "value":
            return self.values.holds(gold_shape.parts[0], shape.parts[0])
        return self._is_same_shape(gold_shape, shape, gold, answer, depth)

    def _is_same_region(self, gold: str, answer: str, depth: int) -> bool | None:
        """Inequalities as the sets they describe; None where neither is one."""
        gold_region, region = region_of(gold), region_of(answer)
        if gold_region is None and region is None:
            return None
        if gold_region is not None and region is not None and self.values.strict:
            names, gold_names = letters_in(answer), letters_in(gold)
            if names != gold_names:
                return False
        gold_shape, shape = gold_region or shape_of(gold), region or shape_of(answer)
        if gold_shape.kind == "value" or shape.kind == "value":
            other = answer if region is None else gold
            return None if any(sign in other for sign in ("<", ">", "\\")) else False
        return self._is_same_shape(gold_shape, shape, gold, answer, depth)

    def _is_same_equation(self, gold: str, answer: str, depth: int) -> bool | None:
        """Named values and chains of equalities; None where both are no equation, or equations to be solved."""
        gold_sides, sides = equation_sides(gold), equation_sides(answer)
        if len(gold_sides) == 1 and len(sides) == 1:
            return self._is_same_approximation(gold, answer, depth)
        is_list = shape_of(gold).kind == "list", shape_of(answer).kind == "list"
        if any(is_list):  # its items are the equations
            if all(is_list) or not is_name((gold_sides if is_list[1] else sides)[0]):
                return None
            return self._is_same(gold if is_list[0] else gold_sides[-1], answer if is_list[1] else sides[-1], depth + 1)
        both_named = min(len(gold_sides), len(sides)) > 1 and is_name(gold_sides[0]) and is_name(sides[0])
        if depth and both_named and not _is_same_name(squeezed(gold_sides[0]), squeezed(sides[0])):
            return False  # among others a name says which one is meant
        if any("," in side or ";" in side for side in (gold_sides if len(gold_sides) > 2 else [])):
            return None
        sides = with_argument_of(gold_sides, sides)
        gold_value, value = value_of_chain(gold_sides) or gold_sides[-1], value_of_chain(sides)
        if value is None:
            return False
        if len(gold_sides) > 1 and _is_to_be_solved(gold_sides, sides):
            return None
        if (gold_value, value) == (gold, answer):
            return None
        if self._is_same(gold_value, value, depth + 1):
            return True
        are_equations = len(gold_sides) == len(sides) == 2 and letters_in(gold_value + " " + gold_sides[0])
        return bool(are_equations and letters_in(value) | letters_in(gold_value)) and self.values.by_engine(
            gold, answer
        )

    def _is_same_approximation(self, gold: str, answer: str, depth: int) -> bool | None:
        gold_parts, parts = sides_of_approximation(gold), sides_of_approximation(answer)
        if len(parts) == len(gold_parts) == 1:
            return None
        if len(parts) > 2 or (len(parts) == 2 and not are_close(parts)):
            return False
        return any(self._is_same(one, other, depth + 1) for one in gold_parts for other in parts)

    def _is_same_shape(self, gold_shape: Shape, shape: Shape, gold: str, answer: str, depth: int) -> bool:
        kinds = (gold_shape.kind, shape.kind)
        if "matrix" in kinds:
            return self._is_same_matrix(gold_shape, shape, gold, answer)
        if "union" in kinds and "list" in kinds:
            is_intervals = all(_is_ordered(shape_of(part)) for part in (*gold_shape.parts, *shape.parts))
            written = answer if gold_shape.kind == "union" else gold  # two points are no union of intervals
            is_certain = gold_shape.kind == "union" or any(sign in written for sign in ("[", "]", "\\infty"))
            return is_intervals and is_certain and self._is_matched(gold_shape.parts, shape.parts, depth)
        if kinds == ("union", "union"):
            return self._is_matched(gold_shape.parts, shape.parts, depth) or self.values.by_engine(gold, answer)
        if "union" in kinds or "\\setminus" in gold or "\\setminus" in answer:
            return self.values.by_engine(_written(gold_shape, gold), _written(shape, answer))
        if "value" in kinds:
            other = shape if gold_shape.kind == "value" else gold_shape
            if len(other.parts) == 1 and other.kind in ("set", "list"):
                return self._is_same(gold_shape.parts[0], shape.parts[0], depth + 1)
            value = gold_shape.parts[0] if gold_shape.kind == "value" else shape.parts[0]
            point = _POINT.sub("", value)
            if other.kind == "tuple" and point != value and closed_number(value) is None:  # C(5, 2) is 10
                golds, answers = (shape_of(point) if one.kind == "value" else one for one in (gold_shape, shape))
                return golds.kind == answers.kind and self._is_same_shape(golds, answers, gold, answer, depth)
            return bool(_is_algebraic_set(gold_shape, shape)) and self.values.by_engine(gold, answer)
        if "set" in kinds and kinds[0] != kinds[1]:  # a set of one tuple
            golds, answers = (
                shape_of(one.parts[0]) if one.kind == "set" and len(one.parts) == 1 else one
                for one in (gold_shape, shape)
            )
            if golds.kind == answers.kind == "tuple":
                return self._is_same_shape(golds, answers, gold, answer, depth)
        if len(gold_shape.parts) != len(shape.parts):
            is_set = kinds == ("set", "set")
            return is_set and self._covers(gold_shape.parts, shape.parts, depth)
        if _is_ordered(gold_shape) and _is_ordered(shape):
            return _same_brackets(gold_shape, shape) and self._is_paired(gold_shape.parts, shape.parts, depth)
        if _is_ordered(gold_shape) or _is_ordered(shape):
            if ("set" in kinds and self.values.strict) or "half" in kinds or "square" in kinds:
                return False
            return self._is_paired(gold_shape.parts, shape.parts, depth)
        return self._is_matched(gold_shape.parts, shape.parts, depth)

    def _is_same_matrix(self, gold_shape: Shape, shape: Shape, gold: str, answer: str) -> bool:
        if gold_shape.kind == shape.kind == "matrix":
            if "vmatrix" in (gold_shape.brackets, shape.brackets):
                return gold_shape.brackets == shape.brackets and self.values.by_engine(gold, answer)
            if gold_shape.rows != shape.rows or len(gold_shape.parts) != len(shape.parts):
                return False
            return self._is_paired(gold_shape.parts, shape.parts, 1)
        matrix, other = (gold_shape, shape) if gold_shape.kind == "matrix" else (shape, gold_shape)
        rows = [shape_of(part) for part in other.parts] if other.kind in ("square", "set", "tuple") else []
        if rows and all(row.kind == other.kind for row in rows) and matrix.brackets != "vmatrix":
            is_gold = gold_shape.kind == "matrix"
            nested = Shape("matrix", tuple(cell for row in rows for cell in row.parts), matrix.brackets, len(rows))
            return self._is_same_matrix(*((matrix, nested) if is_gold else (nested, matrix)), gold, answer)
        if other.kind in ("tuple", "square") and matrix.brackets != "vmatrix":
            is_vector = matrix.rows in (1, len(matrix.parts))
            same_length = len(matrix.parts) == len(other.parts)
            return is_vector and same_length and self._is_paired(gold_shape.parts, shape.parts, 1)
        return matrix.brackets == "vmatrix" and other.kind == "value" and self.values.by_engine(gold, answer)

    def _is_paired(self, golds: tuple[str, ...], answers: tuple[str, ...], depth: int) -> bool:
        return all(self._is_same(one, other, depth + 1) for one, other in zip(golds, answers, strict=True))

    def _is_matched(self, golds: tuple[str, ...], answers: tuple[str, ...], depth: int) -> bool:
        """Whether the items can be paired in some order, each used once."""
        if len(golds) != len(answers):
            return False
        left: dict[str, list[str]] = {}
        for item in answers:
            left.setdefault(squeezed(item), []).append(item)
        unmatched = [gold for gold in golds if not (left.get(squeezed(gold)) and left[squeezed(gold)].pop())]
        rest = [item for items in left.values() for item in items]
        if len(unmatched) > _MAX_UNORDERED_ALGEBRA and not all(
            closed_number(item) is not None for item in unmatched + rest
        ):
            return False
        for gold in unmatched:
            found = next((item for item in rest if self._is_same(gold, item, depth + 1)), None)
            if found is None:
                return False
            rest.remove(found)
        return True

    def _covers(self, golds: tuple[str, ...], answers: tuple[str, ...], depth: int) -> bool:
        """Whether two sets in braces have the same elements, however often each is written."""
        if len(golds) * len(answers) > 100:
            return False
        pairs = [[self._is_same(gold, item, depth + 1) for item in answers] for gold in golds]
        return all(map(any, pairs)) and all(map(any, zip(*pairs, strict=True)))


def is_readable(gold: str) -> bool:
    """Whether a reference can be compared with anything but itself."""
    for text in readings(gold):
        if not text or len(text) > MAX_CHARACTERS:
            continue
        shape = shape_of(text)
        if is_words(text) or all(values.is_readable(part) for part in shape.parts if part):
            return True
    return False


def _has_decimal_point(text: str) -> bool:
    return re.search(r"\d\.\d", text) is not None


def _is_to_be_solved(gold_sides: list[str], sides: list[str]) -> bool:
    """Whether the reference is an equation rather than a named value, and the answer does not name one either."""
    if is_name(gold_sides[0]):
        return False
    if len(sides) > 1:
        return not is_name(sides[0]) or is_name(sides[1])
    return len(gold_sides) == 2 and not is_name(gold_sides[1]) and closed_number(gold_sides[0]) is None


def _is_same_name(gold: str, name: str) -> bool:
    """Whether two names are one; `x_1` is `x` where the other side has no index."""
    return gold == name or _INDEX.sub("", gold) == name or gold == _INDEX.sub("", name)


def _is_ordered(shape: Shape) -> bool:
    return shape.kind in ("tuple", "square", "half")


def _same_brackets(one: Shape, other: Shape) -> bool:
    return one.brackets == other.brackets


def _is_algebraic_set(one: Shape, other: Shape) -> bool:
    """Whether a single value may be a set all the same: named sets, set builders, functions of sets."""
    value = one if one.kind == "value" else other
    return "\\" in value.parts[0] and closed_number(value.parts[0]) is None


def _written(shape: Shape, text: str) -> str:
    if shape.kind == "union":
        return " \\cup ".join(shape.parts)
    if shape.kind in ("tuple", "half", "square") and len(shape.parts) == 2:
        return f"{shape.brackets[0]}{shape.parts[0]}, {shape.parts[1]}{shape.brackets[1]}"
    return text

r"""Whether two mathematical answers are the same, written down as texts.

Owns: the order of questions asked about a pair: the same text? the same choice, words, list, set, interval, equation,
number with unit? and only then the algebra (`engine`). Does not own: reading texts (`reading`), rewards (`math`).

Invariants: equal texts are equal before any guard. A comparison that no rule decides goes to the engine only if both
texts are affordable for it. Numbers are compared by value, never as floats of six places; a decimal of at least
`float_rounding` significant figures equals what rounds to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ring_async.verifiers.reading import units
from ring_async.verifiers.reading.amounts import DEGREE, PERCENT, Amount, closed_number, read_amount, tree_of
from ring_async.verifiers.reading.arithmetic import (
    NotClosedError,
    TooLargeError,
    agree_at_points,
    approximate,
    is_same_number,
)
from ring_async.verifiers.reading.characters import spelled_number
from ring_async.verifiers.reading.expression import Node, canonical, names_in
from ring_async.verifiers.reading.latex import plain_latex, squeezed, without_text_commands
from ring_async.verifiers.reading.numerals import based_number, decimal_comma_reading, grouped_reading, plain_numbers, ratio_parts
from ring_async.verifiers.reading.shapes import Shape, equation_sides, is_name, region_of, shape_of
from ring_async.verifiers.reading.work import is_affordable
from ring_async.verifiers.rules import engine

MAX_CHARACTERS = 4000
_MAX_UNORDERED_ALGEBRA = 12
_CHOICE = re.compile(r"^\(?\s*([A-J])\s*(?:[).:]\s*|\)\s*$|$)(.*)$", re.DOTALL)
_CHOICE_OF = re.compile(r"^(?:option|choice|answer)\s*:?\s*\(?\s*([A-J])\s*\)?[.:]?$", re.IGNORECASE)
_SENTENCE = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then|and|the|my|our|final|a|an|his|her|its|of|in|[A-Za-z]{2,})[ ,]+){1,8}"
    r"(?:is|are|equals?(?: to)?|will be|would be)\s*:?\s+(?=\S)",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(?:\\approx|≈|approximately|approx\.?|about|roughly|answer\s*:|=)\s*", re.IGNORECASE)
_SAME_WORDS = (
    frozenset(
        "nosolution nosolutions norealsolution norealsolutions \\emptyset emptyset theemptyset \\{\\} therearenosolutions".split()
    ),
    frozenset({"dne", "doesnotexist", "thelimitdoesnotexist"}),
)
_ARGUMENT = re.compile(r"^[A-Za-z]\s*\(\s*([A-Za-z])\s*\)$")
_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
_IMAGINARY_J = re.compile(r"(?<![A-Za-z\\])j(?![A-Za-z])")
_MARKED_UNIT = re.compile(r"^(.*[\w)}\]])\s*(\\text\{\s*[A-Za-z][^{}]*\}(?:\^\{?\d\}?)?)$", re.DOTALL)


@dataclass(frozen=True)
class Equality:
    """How strictly answers are compared; see `MathVerifier` for the meaning of the fields."""

    strip_units: bool = False
    strict: bool = True
    float_rounding: int = 6

    def holds(self, gold: str, answer: str) -> bool:
        """Whether the answer is the reference, as far as rules and algebra can tell."""
        if len(answer) > MAX_CHARACTERS or len(gold) > MAX_CHARACTERS:
            return False
        golds, answers = readings(gold), readings(answer)
        if any(squeezed(one) == squeezed(other) for one in golds for other in answers):
            return True
        chosen = _chosen(golds[0], answers[0])
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
        words = _same_words(gold, answer)
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
            return self._is_same_value(gold_shape.parts[0], shape.parts[0])
        return self._is_same_shape(gold_shape, shape, gold, answer, depth)

    def _is_same_region(self, gold: str, answer: str, depth: int) -> bool | None:
        """Inequalities as the sets they describe; None where neither is one."""
        gold_region, region = region_of(gold), region_of(answer)
        if gold_region is None and region is None:
            return None
        if gold_region is not None and region is not None and self.strict:
            names, gold_names = _letters(answer), _letters(gold)
            if names != gold_names:
                return False
        gold_shape, shape = gold_region or shape_of(gold), region or shape_of(answer)
        if gold_shape.kind == "value" or shape.kind == "value":
            return None if gold_region is not None and region is None and "\\" in answer else False
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
        if depth and min(len(gold_sides), len(sides)) > 1 and is_name(gold_sides[0]) and is_name(sides[0]):
            if squeezed(gold_sides[0]) != squeezed(sides[0]):
                return False  # among others a name says which one is meant
        if any("," in side or ";" in side for side in (gold_sides if len(gold_sides) > 2 else [])):
            return None
        sides = _with_argument_of(gold_sides, sides)
        gold_value, value = _value_of(gold_sides), _value_of(sides)
        if value is None:
            return False
        if len(gold_sides) > 1 and len(sides) > 1 and gold_value == gold_sides[-1] and not is_name(gold_sides[0]):
            if not is_name(sides[0]) or is_name(sides[1]):
                return None
        if len(gold_sides) > 1 and gold_value is None:
            gold_value = gold_sides[-1]
        if len(gold_sides) == 2 and not is_name(gold_sides[0]) and not is_name(gold_sides[1]) and len(sides) == 1:
            if not _is_closed(gold_sides[0]):
                return None
        if (gold_value, value) == (gold, answer):
            return None
        return self._is_same(gold_value or gold, value, depth + 1)

    def _is_same_approximation(self, gold: str, answer: str, depth: int) -> bool | None:
        parts = [part.strip() for part in _APPROXIMATELY.split(answer) if part.strip()]
        gold_parts = [part.strip() for part in _APPROXIMATELY.split(gold) if part.strip()]
        if len(parts) == len(gold_parts) == 1:
            return None
        if len(parts) > 1 and not _are_close(parts):
            return False
        return any(self._is_same(one, other, depth + 1) for one in gold_parts for other in parts)

    def _is_same_shape(self, gold_shape: Shape, shape: Shape, gold: str, answer: str, depth: int) -> bool:
        kinds = (gold_shape.kind, shape.kind)
        if "matrix" in kinds:
            return self._is_same_matrix(gold_shape, shape, gold, answer)
        if kinds == ("union", "union"):
            return self._is_matched(gold_shape.parts, shape.parts, depth) or self._by_engine(gold, answer)
        if "union" in kinds or "\\setminus" in gold or "\\setminus" in answer:
            return self._by_engine(_written(gold_shape, gold), _written(shape, answer))
        if "value" in kinds:
            other = shape if gold_shape.kind == "value" else gold_shape
            if len(other.parts) == 1 and other.kind in ("set", "list"):
                return self._is_same(gold_shape.parts[0], shape.parts[0], depth + 1)
            return bool(_is_algebraic_set(gold_shape, shape)) and self._by_engine(gold, answer)
        if len(gold_shape.parts) != len(shape.parts):
            is_set = kinds == ("set", "set")
            return is_set and self._covers(gold_shape.parts, shape.parts, depth)
        if _is_ordered(gold_shape) and _is_ordered(shape):
            return _same_brackets(gold_shape, shape) and self._is_paired(gold_shape.parts, shape.parts, depth)
        if _is_ordered(gold_shape) or _is_ordered(shape):
            if "set" in kinds and self.strict or "half" in kinds or "square" in kinds:
                return False
            return self._is_paired(gold_shape.parts, shape.parts, depth)
        return self._is_matched(gold_shape.parts, shape.parts, depth)

    def _is_same_matrix(self, gold_shape: Shape, shape: Shape, gold: str, answer: str) -> bool:
        if gold_shape.kind == shape.kind == "matrix":
            if "vmatrix" in (gold_shape.brackets, shape.brackets):
                return gold_shape.brackets == shape.brackets and self._by_engine(gold, answer)
            if gold_shape.rows != shape.rows or len(gold_shape.parts) != len(shape.parts):
                return False
            return self._is_paired(gold_shape.parts, shape.parts, 1)
        matrix, other = (gold_shape, shape) if gold_shape.kind == "matrix" else (shape, gold_shape)
        if other.kind in ("tuple", "square") and matrix.brackets != "vmatrix":
            is_vector = matrix.rows in (1, len(matrix.parts))
            same_length = len(matrix.parts) == len(other.parts)
            return is_vector and same_length and self._is_paired(gold_shape.parts, shape.parts, 1)
        return matrix.brackets == "vmatrix" and other.kind == "value" and self._by_engine(gold, answer)

    def _is_paired(self, golds: tuple[str, ...], answers: tuple[str, ...], depth: int) -> bool:
        return all(self._is_same(one, other, depth + 1) for one, other in zip(golds, answers, strict=True))

    def _is_matched(self, golds: tuple[str, ...], answers: tuple[str, ...], depth: int) -> bool:
        """Whether the items can be paired in some order, each used once."""
        if len(golds) != len(answers):
            return False
        left = {}
        for item in answers:
            left.setdefault(squeezed(item), []).append(item)
        unmatched = [gold for gold in golds if not (left.get(squeezed(gold)) and left[squeezed(gold)].pop())]
        rest = [item for items in left.values() for item in items]
        if len(unmatched) > _MAX_UNORDERED_ALGEBRA and not all(_is_closed(item) for item in unmatched + rest):
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

    def _is_same_value(self, gold: str, answer: str) -> bool:
        based, other_based = based_number(gold), based_number(answer)
        if based and other_based:
            return _in_base(based) == _in_base(other_based)
        if based and re.fullmatch("[0-9A-Fa-f]+", answer):
            return based[0] == answer.lower()
        ratio, other_ratio = ratio_parts(gold), ratio_parts(answer)
        if ratio and other_ratio and all(map(_is_closed, ratio + other_ratio)):
            return self._is_same_ratio(ratio, other_ratio)
        gold_amount, amount = _amount(gold, self.strip_units), _amount(answer, self.strip_units)
        if gold_amount is not None and amount is not None:
            return self._is_same_amount(gold_amount, amount)
        gold_symbolic, symbolic = _without_marked_unit(gold), _without_marked_unit(answer)
        if gold_symbolic[1] and symbolic[1] and not _is_one_unit(gold_symbolic[1], symbolic[1]):
            return False
        same = self._is_same_formula(gold_symbolic[0], symbolic[0])
        return self._by_engine(gold_symbolic[0], symbolic[0]) if same is None else same

    def _is_same_ratio(self, gold: list[str], answer: list[str]) -> bool:
        terms, others = ([closed_number(part) for part in ratio] for ratio in (gold, answer))
        if len(terms) != len(others):
            return False
        return all(
            self._is_same_number(Node("*", (term, others[0])), Node("*", (other, terms[0])))  # type: ignore[arg-type]
            for term, other in zip(terms[1:], others[1:], strict=True)
        )

    def _is_same_formula(self, gold: str, answer: str) -> bool | None:
        """Formulas with variables, by their form and by their values at points; None where that does not settle it."""
        trees = tree_of(gold), tree_of(answer)
        if trees[0] is None or trees[1] is None or not self.strict:
            return None
        if canonical(trees[0]) == canonical(trees[1]):
            return True
        if _are_close_names(*map(names_in, trees)):  # type: ignore[arg-type]
            return None
        return agree_at_points(trees[0], trees[1])

    def _is_same_amount(self, gold: Amount, answer: Amount) -> bool:
        one, other = gold.unit, answer.unit
        if PERCENT in (one, other):
            return self._is_same_percent(gold, answer)
        if not one and not other or one and other and units.is_same_unit(one, other):
            return self._is_same_number(gold.number, answer.number)
        if one and other:
            factor = units.ratio(other, one)
            if factor is not None:
                return _is_scaled(gold.number, answer.number, factor)
            both_known = units.is_known(one) and units.is_known(other)
            return self.strip_units and not both_known and self._is_same_number(gold.number, answer.number)
        if self._is_same_number(gold.number, answer.number):
            return True
        if DEGREE in (one, other):  # 30° is π/6
            radians = [_in_radians(amount.number) if amount.unit else amount.number for amount in (gold, answer)]
            return self._is_same_number(*radians)
        return False

    def _is_same_percent(self, gold: Amount, answer: Amount) -> bool:
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return False
        if self._is_same_number(gold.number, answer.number):
            return True
        if gold.unit == answer.unit:
            return False
        hundredth = Node("number", value=Fraction(1, 100))
        sides = [Node("*", (amount.number, hundredth)) if amount.unit else amount.number for amount in (gold, answer)]
        return self._is_same_number(*sides)

    def _is_same_number(self, gold: Node, answer: Node) -> bool:
        try:
            if is_same_number(gold, answer):
                return True
            return _rounds_to(gold, answer, self.float_rounding) or _rounds_to(answer, gold, self.float_rounding)
        except (TooLargeError, NotClosedError):
            return False

    def _by_engine(self, gold: str, answer: str) -> bool:
        texts = [without_text_commands(text) for text in (gold, answer)]
        if any(_has_ellipsis(text) for text in texts) or not all(map(_is_for_engine, texts)):
            return False
        if _IMAGINARY_J.search(texts[1]) and not _IMAGINARY_J.search(texts[0]) and _letters(texts[0]) == {"i"}:
            texts[1] = _IMAGINARY_J.sub("i", texts[1])
        if self.strict and _capital_letters(texts[0]) != _capital_letters(texts[1]) and _letters(texts[0]) != _letters(texts[1]):
            if {letter.lower() for letter in _letters(texts[0])} == {letter.lower() for letter in _letters(texts[1])}:
                return False
        return engine.is_equal(*texts, strict=self.strict, float_rounding=self.float_rounding)


@lru_cache(maxsize=512)
def readings(text: str) -> tuple[str, ...]:
    """The plain texts that an answer may stand for, the likeliest first: commas that group, and commas that separate."""
    plain = plain_latex(text)
    unmarked = without_text_commands(plain)
    sentence = _SENTENCE.match(unmarked)
    if sentence is not None and not _words(unmarked[sentence.end() :]):
        plain = unmarked[sentence.end() :].strip()
    plain = units.move_currency(_PREFIX.sub("", plain).strip())
    number = spelled_number(without_text_commands(plain).strip())
    if number is not None:
        return (str(number),)
    return tuple(dict.fromkeys(plain_numbers(reading) for reading in (grouped_reading(plain), plain)))


def is_readable(gold: str) -> bool:
    """Whether a reference can be compared with anything but itself."""
    for text in readings(gold):
        if not text or len(text) > MAX_CHARACTERS:
            continue
        shape = shape_of(text)
        if _words(text) or all(_is_readable_part(part) for part in shape.parts if part):
            return True
    return False


@lru_cache(maxsize=256)
def _amount(text: str, strip_units: bool) -> Amount | None:
    return read_amount(
        text,
        lambda unit, was_marked, has_blank: units.looks_like_unit(
            unit, was_marked=was_marked, has_blank=has_blank or strip_units
        ),
    )


def _is_closed(text: str) -> bool:
    return closed_number(text) is not None


def _value_of(sides: list[str]) -> str | None:
    """What a chain of equalities says the value is; None where it says what is false."""
    if len(sides) == 1:
        return sides[0]
    named = [side for side in sides if not is_name(side)]
    if not named:
        return sides[-1]
    closed = [number for side in named if (number := closed_number(side)) is not None]
    try:
        if any(not is_same_number(closed[0], number) for number in closed[1:]):
            return None if not any(_is_rough(side) for side in named) else named[-1]
    except (TooLargeError, NotClosedError):
        return named[-1]
    return named[-1]


def _with_argument_of(gold_sides: list[str], sides: list[str]) -> list[str]:
    """`f(t) = t^2` in the letter that the reference uses for its argument."""
    argument, gold_argument = _ARGUMENT.match(sides[0]), _ARGUMENT.match(gold_sides[0])
    if argument is None or gold_argument is None or argument[1] == gold_argument[1]:
        return sides
    letter = re.compile(rf"(?<![A-Za-z\\]){argument[1]}(?![A-Za-z])")
    return [letter.sub(gold_argument[1], side) for side in sides]


def _is_rough(side: str) -> bool:
    return "." in side


def _are_close(parts: list[str]) -> bool:
    values = [number for part in parts if (number := closed_number(part)) is not None]
    try:
        floats = [float(approximate(number)) for number in values]
    except (TooLargeError, NotClosedError, TypeError, OverflowError):
        return False
    return all(abs(value - floats[0]) <= 0.05 * abs(floats[0]) for value in floats)


def _rounds_to(decimal: Node, other: Node, float_rounding: int) -> bool:
    """Whether a decimal with figures enough is what the other number rounds to."""
    place = _last_place(decimal, float_rounding)
    if place is None:
        return False
    value, exact = approximate(decimal), approximate(other)
    if isinstance(value, Fraction) and isinstance(exact, Fraction):
        return abs(value - exact) <= place / 2
    return bool(abs(float(value) - exact) <= float(place) / 2)


def _last_place(node: Node, float_rounding: int) -> Fraction | None:
    """The worth of a decimal's last digit; None where it is no decimal, or has too few significant figures."""
    sign_free = node.parts[0] if node.kind == "negative" else node
    scale = Fraction(1)
    if sign_free.kind == "*" and sign_free.parts[1].kind == "^":
        power = approximate(sign_free.parts[1])
        if not isinstance(power, Fraction):
            return None
        scale, sign_free = power, sign_free.parts[0]
        sign_free = sign_free.parts[0] if sign_free.kind == "negative" else sign_free
    if sign_free.kind != "number" or not sign_free.text:
        return None
    decimals = sign_free.text.partition(".")[2]
    figures = len(sign_free.text.replace(".", "").lstrip("0"))
    return scale / 10 ** len(decimals) if figures >= float_rounding else None


def _is_scaled(gold: Node, answer: Node, factor: float) -> bool:
    try:
        one, other = float(approximate(gold)), float(approximate(answer)) * factor
    except (TooLargeError, NotClosedError, TypeError, OverflowError):
        return False
    return abs(one - other) <= 1e-9 * max(abs(one), abs(other))


def _in_radians(number: Node) -> Node:
    return Node("/", (Node("*", (number, Node("name", text="pi"))), Node("number", value=Fraction(180))))


def _in_base(number: tuple[str, int]) -> int | tuple[str, int]:
    try:
        return int(*number)
    except ValueError:
        return number


def _chosen(gold: str, answer: str) -> bool | None:
    """Whether the answer names the letter that the reference is; None where the reference is no choice."""
    gold_choice, choice = _CHOICE.match(gold), _CHOICE.match(answer) or _CHOICE_OF.match(answer)
    if gold_choice is None or (gold_choice[2] and not gold.lstrip().startswith("(")):
        return None
    if choice is None:
        lowered = re.fullmatch(r"\(\s*([a-j])\s*\)", answer)
        return lowered[1].upper() == gold_choice[1] if lowered and gold.startswith("(") else None
    return choice[1].upper() == gold_choice[1]


def _words(text: str) -> bool:
    """Whether a text is words and nothing else: no digits, no formula."""
    plain = without_text_commands(text)
    if any(character in "\\=<>^_+*/{}|[]0123456789" for character in plain):
        return False
    return re.search(r"[A-Za-z]{2}|[^\W\d_a-zA-Z]", plain) is not None and not _is_closed(plain)


def _same_words(gold: str, answer: str) -> bool | None:
    """Whether words are the same ones; None where one of the two is no words, or both may be products of letters."""
    one, other = _words_of(gold), _words_of(answer)
    for synonyms in _SAME_WORDS:
        if one in synonyms:
            return other in synonyms
    if not (_words(gold) and _words(answer)):
        return None
    if one == other:
        return True
    may_be_products = all(len(text) <= 3 and text.islower() and text.isascii() for text in (gold, answer))
    return None if may_be_products else False


def _words_of(text: str) -> str:
    return re.sub(r"[\s.,'\"()-]+", "", without_text_commands(text).casefold())


def _letters(text: str) -> set[str]:
    return set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text))


def _capital_letters(text: str) -> set[str]:
    return {letter for letter in _letters(text) if letter.isupper()}


def _has_decimal_point(text: str) -> bool:
    return re.search(r"\d\.\d", text) is not None


def _has_ellipsis(text: str) -> bool:
    return "\\ldots" in text or "..." in text


def _without_marked_unit(text: str) -> tuple[str, str]:
    """A formula with variables and the unit in `\\text{…}` behind it (empty: none)."""
    match = _MARKED_UNIT.match(text)
    return (match[1], units.plain_unit(match[2])) if match else (text, "")


def _is_one_unit(one: str, other: str) -> bool:
    return units.is_same_unit(one, other) or units.ratio(one, other) == 1.0


def _are_close_names(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether names are written together (`ab`) or as constants, so that only the engine's reading can tell."""
    return bool((one ^ other) & {"i", "d", "j", "I", "E"})


def _is_ordered(shape: Shape) -> bool:
    return shape.kind in ("tuple", "square", "half")


def _same_brackets(one: Shape, other: Shape) -> bool:
    return one.brackets == other.brackets


def _is_algebraic_set(one: Shape, other: Shape) -> bool:
    """Whether a single value may be a set all the same: named sets, set builders, functions of sets."""
    value = one if one.kind == "value" else other
    return "\\" in value.parts[0] and not _is_closed(value.parts[0])


def _written(shape: Shape, text: str) -> str:
    if shape.kind == "union":
        return " \\cup ".join(shape.parts)
    if shape.kind in ("tuple", "half", "square") and len(shape.parts) == 2:
        return f"{shape.brackets[0]}{shape.parts[0]}, {shape.parts[1]}{shape.brackets[1]}"
    return text


def _is_for_engine(text: str) -> bool:
    return len(text) <= engine.MAX_CHARACTERS and not engine.is_nested_too_deeply(text) and is_affordable(text)


def _is_readable_part(part: str) -> bool:
    if _words(part) or _amount(part, True) is not None or based_number(part) is not None:
        return True
    text = without_text_commands(part)
    if _has_ellipsis(text):
        return True
    if "\\" not in text and re.search(r"\w", text):
        return text.count("{") == text.count("}")
    return not _is_for_engine(text) or engine.is_readable(text)

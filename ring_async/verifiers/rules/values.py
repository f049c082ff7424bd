r"""Whether two single values are the same: numbers with units, ratios, numbers with a base, formulas.

Owns: the order of questions about a pair of values, and which pairs go to the engine. Does not own: lists and other
shapes (`equality`), the algebra (`engine`).

Invariants: numbers are compared by value, never as floats of six places; a decimal of at least `float_rounding`
significant figures equals what rounds to it. Only what is affordable goes to the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ring_async.verifiers.reading import units
from ring_async.verifiers.reading.amounts import DEGREE, PERCENT, Amount, closed_number, read_amount, tree_of
from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate, is_same_number
from ring_async.verifiers.reading.expression import Node
from ring_async.verifiers.reading.formulas import agree_at_points, canonical, differ_by_constant, names_in
from ring_async.verifiers.reading.latex import without_text_commands
from ring_async.verifiers.reading.numerals import based_number, ratio_parts
from ring_async.verifiers.reading.words import has_ellipsis, is_words, letters_in
from ring_async.verifiers.reading.work import is_affordable
from ring_async.verifiers.rules import engine

_IMAGINARY_J = re.compile(r"(?<![A-Za-z\\])j(?![A-Za-z])")
_ONE_CONSTANT = re.compile(r"(?<![A-Za-z\\])C_\{?[01]\}?")
_MARKED_UNIT = re.compile(r"^(.*[\w)}\]])\s*(\\text\{\s*[A-Za-z][^{}]*\}(?:\^\{?\d\}?)?)$", re.DOTALL)


@dataclass(frozen=True)
class ValueEquality:
    """How strictly values are compared; see `MathVerifier` for the meaning of the fields.

    Example: `ValueEquality().holds("5 cm", "50 mm")` is true, and `holds("5 cm", "5 m")` is not.
    """

    strip_units: bool = False
    strict: bool = True
    float_rounding: int = 6

    def holds(self, gold: str, answer: str) -> bool:
        """Whether a value is the reference's."""
        based, other_based = based_number(gold), based_number(answer)
        if based and other_based:
            return _in_base(based) == _in_base(other_based)
        if based and re.fullmatch("[0-9A-Fa-f]+", answer):
            return based[0] == answer.lower()
        ratio, other_ratio = ratio_parts(gold), ratio_parts(answer)
        if ratio and other_ratio and all(closed_number(part) is not None for part in ratio + other_ratio):
            return self._is_same_ratio(ratio, other_ratio)
        gold_amount, amount = _amount(gold, self.strip_units), _amount(answer, self.strip_units)
        if gold_amount is not None and amount is not None:
            return self._is_same_amount(gold_amount, amount)
        gold_symbolic, symbolic = _without_marked_unit(gold), _without_marked_unit(answer)
        if gold_symbolic[1] and symbolic[1] and not _is_one_unit(gold_symbolic[1], symbolic[1]):
            return False
        same = self._is_same_formula(gold_symbolic[0], symbolic[0])
        return self.by_engine(gold_symbolic[0], symbolic[0]) if same is None else same

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
        trees = tree_of(gold), tree_of(_ONE_CONSTANT.sub("C", answer) if "C_2" not in answer else answer)
        if trees[0] is None or trees[1] is None or not self.strict:
            return None
        if canonical(trees[0]) == canonical(trees[1]) or differ_by_constant(trees[0], trees[1]):
            return True
        if _are_close_names(*map(names_in, trees)):  # type: ignore[arg-type]
            return None
        return agree_at_points(trees[0], trees[1])

    def _is_same_amount(self, gold: Amount, answer: Amount) -> bool:
        one, other = gold.unit, answer.unit
        if PERCENT in (one, other):
            return self._is_same_percent(gold, answer)
        if (not one and not other) or (one and other and units.is_same_unit(one, other)):
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

    def by_engine(self, gold: str, answer: str) -> bool:
        """Whether math-verify takes the two for equal; false where one of them is more than it can be given."""
        texts = [without_text_commands(text) for text in (gold, answer)]
        if any(has_ellipsis(text) for text in texts) or not all(map(_is_for_engine, texts)):
            return False
        if _IMAGINARY_J.search(texts[1]) and not _IMAGINARY_J.search(texts[0]) and letters_in(texts[0]) == {"i"}:
            texts[1] = _IMAGINARY_J.sub("i", texts[1])
        one, other = map(letters_in, texts)
        if self.strict and one != other and {letter.lower() for letter in one} == {letter.lower() for letter in other}:
            return False  # the engine does not tell i from I
        return engine.is_equal(*texts, strict=self.strict, float_rounding=self.float_rounding)


@lru_cache(maxsize=256)
def _amount(text: str, strip_units: bool) -> Amount | None:
    return read_amount(
        text,
        lambda unit, was_marked, has_blank: units.looks_like_unit(
            unit, was_marked=was_marked, has_blank=has_blank or strip_units
        ),
    )


def _without_marked_unit(text: str) -> tuple[str, str]:
    r"""A formula with variables and the unit in `\text{…}` behind it (empty: none)."""
    match = _MARKED_UNIT.match(text)
    return (match[1], units.plain_unit(match[2])) if match else (text, "")


def _is_one_unit(one: str, other: str) -> bool:
    return units.is_same_unit(one, other) or units.ratio(one, other) == 1.0


def _are_close_names(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether names are written together (`ab`) or as constants, so that only the engine's reading can tell."""
    return bool((one ^ other) & {"i", "d", "j", "I", "E"})


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


def _is_for_engine(text: str) -> bool:
    return len(text) <= engine.MAX_CHARACTERS and not engine.is_nested_too_deeply(text) and is_affordable(text)


def is_readable(part: str) -> bool:
    """Whether a value can be compared with what is not the same text."""
    if is_words(part) or _amount(part, True) is not None or based_number(part) is not None:
        return True
    text = without_text_commands(part)
    if has_ellipsis(text):
        return True
    if "\\" not in text and re.search(r"\w", text):
        return text.count("{") == text.count("}")
    return not _is_for_engine(text) or engine.is_readable(text)

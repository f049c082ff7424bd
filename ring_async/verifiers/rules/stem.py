r"""Answers of science questions: multiple choice, and numbers with units, tolerance and significant figures.

Owns: reading a choice or a quantity out of an answer, and comparing it. Does not own: units (pint).

`prompt.metadata` holds `answer` and, as the question needs:
    choices: the options' texts in order; then `answer` is a letter, or several (`"AC"`), and an option's text counts;
    tolerance: relative, overriding the verifier's;  absolute_tolerance: in the answer's unit;
    significant_figures: the answer must agree once both are rounded to this many; overrides the tolerances;
    exact_figures: true where it must also be *written* with that many.

The answer stands in the last `\boxed{…}`, else the last `<answer>…</answer>`; a choice may also stand after the words
"the answer is". Units are read by a strict grammar before pint sees them, so no response can make it compute.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.answers import boxed_answer, tagged_answer

_MAX_CHARACTERS = 120
_MAX_CHOICE_CHARACTERS = 2000
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_TEXT = re.compile(r"\\(?:text|mathrm|textrm|rm|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|quad|qquad)|~|\$|\\\(|\\\)")
_DEGREE_UNITS = re.compile(r"(?:°|\^\s*\{?\\circ\}?|\\degree)\s*([CFK])\b")
_QUANTITY = re.compile(
    r"^(?:[A-Za-zΔλ]\w*\s*[=≈]\s*)?(?:≈|~|about\s|approximately\s)?\s*"
    r"(?P<number>[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?)(?:\s*/\s*(?P<divisor>\d+(?:\.\d+)?))?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})|\s*(?:\*|x|×)\s*10\s*(?:\^|\*\*)\s*[{(]?(?P<power>[-+]?\d{1,3})[})]?)?"
    r"(?P<unit>.*)$",
    re.DOTALL,
)
_UNIT = re.compile(r"[A-Za-zµμΩ%Å]+|[*/()]|(?:\^|\*\*)\s*[{(]?\s*-?\d{1,2}\s*[})]?|\s+|1(?=\s*/)")
_CHOICE = re.compile(r"^\(?\s*+([A-Z](?:(?:[\s,&]|and)++[A-Z])*+|[A-Z]{2,6})\s*+\)?(?:[.:)].*)?$", re.DOTALL)
_SAID_CHOICE = re.compile(r"answer\s{0,3}(?:is|:)\s{0,3}\*{0,2}\s{0,3}\(?([A-Z])\)?(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written, and its unit (empty: none)."""

    value: float
    figures: int
    """Significant figures it was written with; trailing zeros of a whole number are not counted."""
    unit: str


def read_quantity(text: str) -> Quantity | None:
    r"""A number with an optional unit: `9.81 m/s^2`, `3.0\times 10^{8}\,\text{m/s}`, `25 °C`, `1,200`, `3/4`."""
    if len(text) > _MAX_CHARACTERS:
        return None
    plain = _SUPERSCRIPT_RUN.sub(lambda match: "^" + match.group().translate(_SUPERSCRIPTS), text)
    plain = _SPACING.sub(" ", _TEXT.sub(r" \1 ", plain)).replace("\\times", "×").replace("\\cdot", "*")
    plain = _DEGREE_UNITS.sub(r"deg\1", plain).replace("°", "degree").replace("·", "*").replace("−", "-")
    plain = plain.replace("\\%", "%").replace("\\Omega", "ohm").replace("\\approx", "≈").strip()
    plain = re.sub(r"\\mu\s*", "µ", plain)
    plain = re.sub(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}", r"\1/\2", plain)
    match = _QUANTITY.match(plain.rstrip(". "))
    if match is None or not match["number"].strip("+-."):
        return None
    unit = _unit_text(match["unit"].strip())
    if unit is None:
        return None
    digits = match["number"].replace(",", "")
    try:
        mantissa = Decimal(digits)
        number = mantissa.scaleb(int(match["exponent"] or match["power"] or 0))
        value = float(number / Decimal(match["divisor"]) if match["divisor"] else number)
    except (InvalidOperation, OverflowError, ZeroDivisionError, ValueError):
        return None
    return Quantity(value, _figures(digits), unit) if math.isfinite(value) else None


class StemVerifier(VerifierBase):
    """Reward 1 for the right choice or quantity, else 0.

    Args:
        tolerance: relative, for quantities whose prompt sets none.
        require_units: a quantity without its unit is wrong; off, a missing unit is taken to be the answer's.
    """

    distributions = ("pint",)

    def __init__(self, tolerance: float = 0.01, require_units: bool = True) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: {tolerance} must be in [0, 1)")
        self._tolerance = tolerance
        self._require_units = require_units

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        gold, choices = prompt.metadata.get("answer"), prompt.metadata.get("choices")
        if gold is None or gold == "":
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no `answer`")
        if choices or re.fullmatch(r"[A-Z]{1,6}", str(gold)):
            problem = _choice_problem(str(gold), list(choices or ()), response.text)
        else:
            problem = self._quantity_problem(prompt, str(gold), response.text)
        return Verdict(
            float(not problem),
            {"answered": float(problem != "no answer found")},
            problem or f"it is {gold}",
            time.perf_counter() - started,
        )

    def golden_cases(self) -> Sequence[GoldenCase]:
        choice = Prompt("golden-choice", "stem", "Which?", {"answer": "B", "choices": ["oxygen", "helium"]})
        speed = Prompt("golden-speed", "stem", "How fast?", {"answer": "36 km/h"})
        return (
            GoldenCase(choice, Response("\\boxed{B}"), 1.0),
            GoldenCase(choice, Response("\\boxed{A}"), 0.0),
            GoldenCase(speed, Response("<answer>10 m/s</answer>"), 1.0),
            GoldenCase(speed, Response("<answer>10 km/h</answer>"), 0.0),
        )

    def _quantity_problem(self, prompt: Prompt, gold_text: str, text: str) -> str:
        """Why the response's quantity is wrong; empty if it is right."""
        gold = read_quantity(gold_text)
        if gold is None or (gold.unit and not _is_known_unit(gold.unit)):
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: answer {gold_text!r} is not a number with a unit")
        answer_text = _marked_answer(text)
        if answer_text is None:
            return "no answer found"
        answer = read_quantity(answer_text)
        if answer is None:
            return f"{_shown(answer_text)!r} is not a number with a unit"
        is_ratio = _converted(Quantity(1.0, 1, gold.unit), "") is not None  # percent, ppm: a plain number will do
        if not answer.unit and self._require_units and not is_ratio:
            return f"{_shown(answer_text)} lacks its unit ({gold.unit})"
        value = _converted(answer, gold.unit) if answer.unit or is_ratio else answer.value
        if value is None:
            return f"{answer.unit!r} is not a unit of the same kind as {gold.unit!r}"
        return self._number_problem(prompt, gold, answer, value)

    def _number_problem(self, prompt: Prompt, gold: Quantity, answer: Quantity, value: float) -> str:
        metadata = prompt.metadata
        figures = metadata.get("significant_figures")
        if figures is not None:
            if metadata.get("exact_figures") and answer.figures != figures:
                return f"written with {answer.figures} significant figures, asked for {figures}"
            half_place = 0.5 * 10.0 ** (math.floor(math.log10(abs(gold.value))) - figures + 1) if gold.value else 0.0
            bound = half_place * (1 + 1e-9)
        else:
            relative = float(metadata.get("tolerance", self._tolerance))
            bound = max(relative * abs(gold.value), float(metadata.get("absolute_tolerance", 0.0)))
            bound = max(bound, 1e-12 * abs(gold.value))
        if abs(value - gold.value) <= bound:
            return ""
        return f"{value:g} {gold.unit} is not {gold.value:g} ± {bound:.2g}".replace("  ", " ")


def _choice_problem(gold: str, choices: list[str], text: str) -> str:
    letters = [chr(ord("A") + index) for index in range(len(choices))] or [chr(ord("A") + n) for n in range(26)]
    answer = _marked_answer(text)
    if answer is None:
        said = _SAID_CHOICE.findall(text)
        if not said:
            return "no answer found"
        answer = said[-1].upper()
    plain = _SPACING.sub(" ", _TEXT.sub(r"\1", answer[:_MAX_CHOICE_CHARACTERS])).strip().strip("*").strip()
    match = _CHOICE.match(plain)
    if match is not None and set(re.findall("[A-Z]", match.group(1))) <= set(letters):
        chosen = set(re.findall("[A-Z]", match.group(1)))
    else:
        wanted = plain.casefold().rstrip(".")
        chosen = {
            letter for letter, choice in zip(letters, choices, strict=False) if choice.casefold().strip() == wanted
        }
    if chosen == set(re.findall("[A-Z]", gold)):
        return ""
    return f"{', '.join(sorted(chosen)) or _shown(answer)} is not {gold}"


def _marked_answer(text: str) -> str | None:
    return boxed_answer(text) or tagged_answer(text)


def _figures(digits: str) -> int:
    significant = digits.lstrip("+-").lstrip("0")
    if "." in significant:
        return len(significant.replace(".", "").lstrip("0"))
    return len(significant.rstrip("0")) or 1


def _unit_text(text: str) -> str | None:
    """The unit in pint's spelling, or None if it holds anything that no unit needs."""
    text = text.replace("^{", "^(").replace("}", ")")
    pieces, position = [], 0
    while position < len(text):
        match = _UNIT.match(text, position)
        if match is None:
            return None
        piece = match.group()
        if piece[0] in "^*" and len(piece) > 1:
            piece = "**(" + re.sub(r"[^\d-]", "", piece) + ")"
        pieces.append(piece.replace("%", "percent").replace("μ", "µ").replace("Ω", "ohm"))
        position = match.end()
    return re.sub(r"(?<=[\w)])\s+(?=[A-Za-zµ])", " * ", "".join(pieces).strip())


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # slow to import, and only needed where there are units

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


@lru_cache(maxsize=1024)
def _parsed_unit(unit: str) -> Any | None:
    try:
        return _registry().parse_units(unit)
    except Exception:  # pint raises many kinds, also its tokenizer's own
        return None


def _is_known_unit(unit: str) -> bool:
    return _parsed_unit(unit) is not None


def _converted(quantity: Quantity, unit: str) -> float | None:
    """The value in another unit, or None where that is impossible. An empty unit is a plain number."""
    parsed = _parsed_unit(quantity.unit) if quantity.unit else ""
    if parsed is None:
        return None
    try:
        return float(_registry().Quantity(quantity.value, parsed).to(_parsed_unit(unit) if unit else "").magnitude)
    except Exception:  # another dimension, or an offset unit in a product
        return None


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"

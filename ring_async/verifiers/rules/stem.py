r"""Answers of science questions: multiple choice, and numbers with units, tolerance and significant figures.

Owns: the verifier and its options, and comparing what was read. Does not own: reading a choice (`choices`) or a
quantity (`quantities`), units (pint).

`prompt.metadata` holds `answer` and, as the question needs:
    choices: the options' texts in order; then `answer` is a letter, several (`"AC"`), an option's text, a label from 1
        as text (`"2"`) or an index from 0 as a number (`1`), and an option's text counts as an answer;
    tolerance: relative, overriding the verifier's;  absolute_tolerance: in the answer's unit;
    significant_figures: the answer must agree once both are rounded to this many; overrides the tolerances;
    exact_figures: true where it must also be *written* with that many.

The answer stands in the last `\boxed{…}`, else the last `<answer>…</answer>`, else after the words "the answer is". A
choice so announced counts too where the last box holds no choice and stands before it.

Invariants: what a response does is a verdict; a reference that is no choice, quantity or formula is the prompt's
failure.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.reading import units
from ring_async.verifiers.reading.latex import plain_latex, squeezed
from ring_async.verifiers.rules.answers import boxed_answer, finished_text, tagged_answer
from ring_async.verifiers.rules.choices import announced_choice, announced_text, chosen_by_answer, chosen_by_reference
from ring_async.verifiers.rules.quantities import MAX_CHARACTERS, Quantity, is_currency, read_quantity

_FORMULA = re.compile(r"^(?:\(?[A-Z][a-z]?(?:_?\{?\d{0,3}\}?)\)?\d{0,2})+(?:\^?\{?\d?[+-]\}?)?$|^[A-Za-z]{2,40}$")
_CHEMISTRY = re.compile(r"\\(?:ce|chem)(?=\{)")
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=[a-z]{2})", re.IGNORECASE)
_ANGLE = re.compile(r"deg|arc|turn|rev|grad")


class StemVerifier(VerifierBase):
    """Reward 1 for the right choice or quantity, else 0.

    Args:
        tolerance: relative, for quantities whose prompt sets none.
        require_units: a quantity without its unit is wrong; off, a missing unit is taken to be the answer's.
    """

    distributions = ("pint", "mpmath")

    def __init__(self, tolerance: float = 0.01, require_units: bool = True) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: {tolerance} must be in [0, 1)")
        self._tolerance = tolerance
        self._require_units = require_units

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        gold, choices = prompt.metadata.get("answer"), list(prompt.metadata.get("choices") or ())
        if gold is None or gold in ("", []):
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no `answer`")
        text = finished_text(response.text)
        wanted = chosen_by_reference(gold, choices)
        if wanted is not None:
            problem = _choice_problem(gold, wanted, choices, text)
        elif choices:
            raise VerifierError(
                "bad_prompt", f"{prompt.prompt_id}: answer {gold!r} is none of the {len(choices)} choices"
            )
        else:
            problem = self._quantity_problem(prompt, str(gold), text)
        return Verdict(
            float(not problem),
            {"answered": float(problem != "no answer found")},
            problem or f"it is {gold}",
            time.perf_counter() - started,
        )

    def check_prompt(self, prompt: Prompt) -> None:
        self.score(prompt, Response(""))

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
        answer_text = _marked_answer(text)
        if answer_text is None:
            answer_text = announced_text(text)
        if gold is None and _FORMULA.match(_CHEMISTRY.sub("", plain_latex(gold_text)).strip("{}")):
            return _formula_problem(gold_text, answer_text)
        if gold is None or (gold.unit and units.parsed_unit(gold.unit) is None and not is_currency(gold.unit)):
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: answer {gold_text!r} is not a number with a unit")
        if answer_text is None:
            return "no answer found"
        answer = _first_quantity(answer_text)
        if answer is None:
            return f"{_shown(answer_text)!r} is not a number with a unit"
        return self._value_problem(prompt, gold, answer, _shown(answer_text))

    def _value_problem(self, prompt: Prompt, gold: Quantity, answer: Quantity, shown: str) -> str:
        if is_currency(gold.unit) and units.is_same_unit(gold.unit, answer.unit):
            return self._number_problem(prompt, gold, answer, answer.value)
        is_ratio = not _ANGLE.search(gold.unit) and units.converted(1.0, gold.unit, "") is not None
        if not answer.unit and self._require_units and not is_ratio:
            return f"{shown} lacks its unit ({gold.unit})"
        if "percent" in (gold.unit, answer.unit) and not (gold.unit and answer.unit):  # its sign may be left out
            as_written = self._number_problem(prompt, gold, answer, answer.value)
            if not as_written:
                return ""
        value = units.converted(answer.value, answer.unit, gold.unit) if answer.unit or is_ratio else answer.value
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


def _choice_problem(gold: Any, wanted: frozenset[str], choices: list[str], text: str) -> str:
    answer = _marked_answer(text)
    chosen: frozenset[str] = frozenset()
    if answer is not None:
        has_labels = isinstance(gold, str) and gold.strip().isdigit()
        chosen = chosen_by_answer(answer, choices, has_labels=has_labels)
    if not chosen:
        announced = announced_choice(text, choices)
        if answer is None and announced is None:
            return "no answer found"
        if announced is not None and announced[1] > text.rfind("\\boxed"):
            chosen = announced[0]
    if chosen == wanted:
        return ""
    return f"{', '.join(sorted(chosen)) or _shown(answer or '')} is not {gold}"


def _formula_problem(gold: str, answer: str | None) -> str:
    """A word or chemical formula as reference: the same text is right, letters in the same order and case."""
    if answer is None:
        return "no answer found"
    one, other = map(_written, (gold, answer))
    is_word = plain_latex(gold).islower()
    return "" if one == other or (is_word and one == other.casefold()) else f"{_shown(answer)} is not {gold}"


def _written(text: str) -> str:
    r"""A formula or word as compared: `\ce{Fe^{3+}}` is `Fe3+`, and `the mitochondria` is without its article."""
    plain = _ARTICLE.sub("", _CHEMISTRY.sub("", plain_latex(text[:MAX_CHARACTERS])))
    return re.sub(r"[_{}^]|\\text", "", squeezed(plain))


def _first_quantity(text: str) -> Quantity | None:
    """The quantity that the whole answer is, or the one it ends an equation with (`F = ma = 12 N`)."""
    quantity = read_quantity(text)
    if quantity is None and "=" in text:
        quantity = read_quantity(text.rpartition("=")[2])
    return quantity


def _marked_answer(text: str) -> str | None:
    return boxed_answer(text) or tagged_answer(text)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"

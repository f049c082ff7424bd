r"""Mathematical answers, judged by equivalence: math-verify behind safe deadlines.

Owns: finding the answer, normalizing it, refusing what would never end. Does not own: the algebra (math-verify, sympy).

`prompt.metadata["answer"]` is the right answer, LaTeX or plain; a list where several are right. The response's answer
stands in its last `\boxed{…}`, else in its last `<answer>…</answer>`, else, on request, it is its last number.

math-verify stops long computations with SIGALRM, which works in a main thread alone, and not inside C code. Here its
own timeouts are off and the verifier is `guarded`: a worker process that is late is killed. What could only burn its
time (towers of powers, huge factorials) is refused beforehand with reward 0, so a response cannot cause failures.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any, Literal

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Isolation, Response, VerifierBase
from ring_async.verifiers.rules.answers import boxed_answer, last_number, tagged_answer

MAX_ANSWER_CHARACTERS = 600

_WRAPPERS = re.compile(r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle|,|;|!|:|quad|qquad)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox|mathbf|operatorname)\s*\{([^{}]*)\}")
_UNIT_WORDS = (
    "degrees?|radians?|meters?|metres?|centimeters?|kilometers?|miles?|inch(?:es)?|feet|foot|yards?|seconds?|minutes?|"
    "hours?|days?|weeks?|months?|years?|dollars?|cents?|grams?|kilograms?|pounds?|ounces?|liters?|litres?|gallons?|"
    "units?|points?|people|students?|percent|square|cubic|per|mph|cm|mm|km|kg|mg|ml|ft|in|yd|mi|lb|oz|hr|min|sec|m|g|s|h|L"
)
_UNITS = re.compile(rf"(?<=[\d\s}})])\s*\b(?:{_UNIT_WORDS})\b\.?\s*(?:\^\s*\{{?\d\}}?)?(?:\s*/\s*(?:{_UNIT_WORDS})\b)?")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?![\d,])")
_NAMED_VALUE = re.compile(r"^\s*[A-Za-z](?:\s*\([A-Za-z]\))?\s*=(?!=)\s*(.+)$", re.DOTALL)
_LARGE_POWER = re.compile(r"(?:\^|\*\*)[\s({]*-?\s*\d{4,}")
_POWER_TOWER = re.compile(r"(?:\^|\*\*)[\s({]*[\d.]+[\s)}]*(?:\^|\*\*|!)")
_LARGE_FACTORIAL = re.compile(r"\d{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!")
_CONTROL_SPACE = re.compile(r"(?<!\\)\\ ")
_SCIENTIFIC = re.compile(r"(?<=\d)[eE]([-+]?\d+)(?![\dA-Za-z])")
_BRACES = re.compile(r"\{\s*([A-Za-z0-9])\s*\}")


class MathVerifier(VerifierBase):
    r"""Reward 1 for an equivalent answer, else 0.

    Args:
        extract: `boxed_or_tagged`; `boxed`; `tagged`; or `last_number`, which also takes a bare last number.
        strip_units: compare `5 \text{ cm}` with `5`. Off, units written by both must be the same text.
        strict: as math-verify's: variables' names matter, and a set is not a tuple.
        float_rounding: decimal places to which decimals are compared.
    """

    isolation: Isolation = "guarded"
    distributions = ("math-verify", "sympy", "latex2sympy2_extended")

    def __init__(
        self,
        extract: Literal["boxed_or_tagged", "boxed", "tagged", "last_number"] = "boxed_or_tagged",
        strip_units: bool = False,
        strict: bool = True,
        float_rounding: int = 6,
    ) -> None:
        if extract not in ("boxed_or_tagged", "boxed", "tagged", "last_number"):
            raise ValueError(f"extract: {extract!r} is none of boxed_or_tagged, boxed, tagged, last_number")
        self._extract = extract
        self._strip_units = strip_units
        self._strict = strict
        self._float_rounding = float_rounding

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        golds = prompt.metadata.get("answer")
        if golds is None or golds == "":
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no `answer`")
        answer = self._answer(response.text)
        if answer is None:
            return Verdict(0.0, {"answered": 0.0}, "no answer found", time.perf_counter() - started)
        is_equal = any(self.is_equal(str(gold), answer) for gold in (golds if isinstance(golds, list) else [golds]))
        return Verdict(
            float(is_equal),
            {"answered": 1.0},
            f"{answer[:60]} is {'' if is_equal else 'not '}{str(golds)[:60]}",
            time.perf_counter() - started,
        )

    def is_equal(self, gold: str, answer: str) -> bool:
        """Whether two answers are the same mathematical object, as far as sympy can tell."""
        if not is_computable(answer):
            return False
        gold, answer = normalize(gold, strip_units=self._strip_units), normalize(answer, strip_units=self._strip_units)
        if _squeezed(gold) == _squeezed(answer):
            return True
        if not answer:
            return False
        import math_verify  # takes a second; only scoring processes pay for it

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its timeouts are off
        parsed_gold, parsed = _parse(gold), _parse(answer)
        if not parsed_gold or not parsed:
            return False
        if {symbol.name for symbol in _symbols(parsed_gold) | _symbols(parsed)} == {"i"}:
            parsed_gold, parsed = _as_complex(parsed_gold), _as_complex(parsed)
        return bool(
            math_verify.verify(
                parsed_gold,
                parsed,
                float_rounding=self._float_rounding,
                strict=self._strict,
                timeout_seconds=None,
            )
        )

    def golden_cases(self) -> Sequence[GoldenCase]:
        prompt = Prompt("golden", "math", "What is 1/4 + 1/4?", {"answer": "\\frac{1}{2}"})
        return (
            GoldenCase(prompt, Response("So it is \\boxed{0.5}."), 1.0),
            GoldenCase(prompt, Response("<answer>2/4</answer>"), 1.0),
            GoldenCase(prompt, Response("\\boxed{2}"), 0.0),
            GoldenCase(prompt, Response("I would say a half."), 0.0),
        )

    def _answer(self, text: str) -> str | None:
        answer = None
        if self._extract != "tagged":
            answer = boxed_answer(text)
        if answer is None and self._extract != "boxed":
            answer = tagged_answer(text)
            if answer is not None:
                answer = boxed_answer(answer) or answer
        if answer is None and self._extract == "last_number":
            answer = last_number(text)
        return answer


def is_computable(answer: str) -> bool:
    """Whether comparing it is sure to end: not too long, no towers of powers, no huge exponents or factorials."""
    return len(answer) <= MAX_ANSWER_CHARACTERS and not any(
        pattern.search(answer) for pattern in (_LARGE_POWER, _POWER_TOWER, _LARGE_FACTORIAL)
    )


def normalize(answer: str, *, strip_units: bool) -> str:
    """Take away what does not change the value: dollar signs, spacing commands, text wrappers, thousands separators.

    A leading `x =` is taken away too: the question asks for the value. Degrees count as a unit.
    """
    text = answer.strip().strip("$").strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2].strip()
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = text.replace("\\$", "").replace("\u2212", "-").replace("\u00d7", "\\times ").replace("\u03c0", "\\pi ")
    text = text.replace("\\%", "%").replace("~", " ").replace("**", "^")
    text = _CONTROL_SPACE.sub(" ", text)
    text = _SCIENTIFIC.sub(r" \\times 10^{\1}", text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^\d]", "", match.group()), text)
    text = _WRAPPERS.sub(" ", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _DEGREES.sub("", text)
    if strip_units:
        text = _UNITS.sub(" ", text)
    named = _NAMED_VALUE.match(text)
    if named is not None and "=" not in named.group(1):
        text = named.group(1)
    return text.strip().rstrip(".").strip()


def _squeezed(text: str) -> str:
    return _BRACES.sub(r"\1", re.sub(r"\s+", "", text)).replace("\\cdot", "*")


def _symbols(parsed: list[Any]) -> set[Any]:
    return {symbol for item in parsed for symbol in getattr(item, "free_symbols", ())}


def _as_complex(parsed: list[Any]) -> list[Any]:
    """Where `i` is the only letter it is the imaginary unit, which math-verify takes for a variable."""
    import sympy

    return [
        item.subs(dict.fromkeys(item.free_symbols, sympy.I)).expand() if getattr(item, "free_symbols", None) else item
        for item in parsed
    ]


def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=None,  # type: ignore[arg-type]
    )

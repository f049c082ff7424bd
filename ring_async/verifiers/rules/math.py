r"""Mathematical answers, judged by equivalence: rules of our own around math-verify, within bounds of work.

Owns: the verifier, its options, which answer is compared with which reference. Does not own: finding the answer
(`answers`), reading it (`reading`), deciding about a pair (`equality`), the algebra (`engine`: math-verify, sympy).

`prompt.metadata["answer"]` is the right answer, LaTeX or plain; a list where several are right. The response's answer
stands in its last `\boxed{…}` (or in boxes that stand together), else in its last `<answer>…</answer>`, else, on
request, it is its last number. Thinking that was begun and not ended holds no answer.

Invariants: what a response does is a verdict. What could only burn time is refused by its estimated size, and what
takes longer than `MAX_CPU_S` of processor time ends there, both with reward 0. A reference that cannot be read is the
prompt's failure (`bad_prompt`), never a reward. math-verify's own time limits are off: they need SIGALRM.
"""

from __future__ import annotations

import ast
import math
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Isolation, Response, VerifierBase
from ring_async.verifiers.reading.work import OutOfWorkError, cpu_budget
from ring_async.verifiers.rules.answers import boxed_answers, finished_text, last_number, tagged_answer
from ring_async.verifiers.rules.equality import Equality, is_readable
from ring_async.verifiers.rules.values import ValueEquality

MAX_CPU_S = 1.0
"""For one verdict. Nearly all that come to an end take a tenth of it; `reward.timeout_s` (10 s) is far off, even where
eight workers share two cores."""

_LIST_AS_TEXT = re.compile(r"^\s*\[\s*(?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*\s*\]\s*$")
_AFTER_HASHES = re.compile(r"####\s*(\S.*)")


class MathVerifier(VerifierBase):
    r"""Reward 1 for an equivalent answer, else 0.

    Args:
        extract: `boxed_or_tagged`; `boxed`; `tagged`; or `last_number`, which also takes a bare last number.
        strip_units: any words behind a number are its unit, and a unit that pint does not know is passed over. On or
            off, a unit that only one side writes is passed over, and units that both write are compared.
        strict: as math-verify's: variables' names matter, and a set is not a tuple.
        float_rounding: significant figures that a decimal needs to stand for the number it is rounded from.
    """

    isolation: Isolation = "guarded"
    distributions = ("math-verify", "sympy", "latex2sympy2_extended", "mpmath", "pint")

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
        self._equality = Equality(ValueEquality(strip_units, strict, float_rounding))

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        golds = _references(prompt)
        answer = self._answer(finished_text(response.text))
        if answer is None:
            return Verdict(0.0, {"answered": 0.0}, "no answer found", time.perf_counter() - started)
        is_equal, explanation = self._judged(golds, answer)
        if not is_equal:
            _require_readable(prompt, golds)
        return Verdict(float(is_equal), {"answered": 1.0}, explanation, time.perf_counter() - started)

    def is_equal(self, gold: str, answer: str) -> bool:
        """Whether two answers are the same mathematical object, as far as rules and sympy can tell."""
        return self._judged([gold], answer)[0]

    def check_prompt(self, prompt: Prompt) -> None:
        _references(prompt)

    def golden_cases(self) -> Sequence[GoldenCase]:
        prompt = Prompt("golden", "math", "What is 1/4 + 1/4?", {"answer": "\\frac{1}{2}"})
        length = Prompt("golden-length", "math", "How long?", {"answer": "5\\text{ cm}"})
        algebra = Prompt("golden-algebra", "math", "Which line?", {"answer": "2x+3y=6"})
        return (
            GoldenCase(prompt, Response("So it is \\boxed{0.5}."), 1.0),
            GoldenCase(prompt, Response("<answer>2/4</answer>"), 1.0),
            GoldenCase(prompt, Response("\\boxed{2}"), 0.0),
            GoldenCase(prompt, Response("I would say a half."), 0.0),
            GoldenCase(length, Response("\\boxed{50\\text{ mm}}"), 1.0),
            GoldenCase(algebra, Response("\\boxed{4x+6y=12}"), 1.0),  # loads the engine before workers are forked
        )

    def _judged(self, golds: list[str], answer: str) -> tuple[bool, str]:
        """Whether the answer is one of the references, and a line that says so."""
        wanted = " or ".join(golds)[:60]
        if answer in golds:  # before any guard, however large it is
            return True, f"{answer[:60]} is {wanted}"
        try:
            with cpu_budget(MAX_CPU_S):
                if any(self._equality.holds(gold, answer) for gold in golds):
                    return True, f"{answer[:60]} is {wanted}"
        except OutOfWorkError:
            return False, f"{answer[:60]} takes too long to compare with {wanted}"
        except (MemoryError, RecursionError):
            return False, f"{answer[:60]} is too large to compare with {wanted}"
        return False, f"{answer[:60]} is not {wanted}"

    def _answer(self, text: str) -> str | None:
        answer = None
        if self._extract != "tagged":
            answer = boxed_answers(text)
        if answer is None and self._extract != "boxed":
            answer = tagged_answer(text)
            if answer is not None:
                answer = boxed_answers(answer) or answer
        if answer is None and self._extract == "last_number":
            answer = last_number(text)
        return answer


def _references(prompt: Prompt) -> list[str]:
    """The right answers as texts.

    Raises:
        VerifierError: `bad_prompt`, there is none, or one is neither a text nor a number.
    """
    golds = prompt.metadata.get("answer")
    if isinstance(golds, str) and _LIST_AS_TEXT.match(golds):
        golds = ast.literal_eval(golds)
    listed = golds if isinstance(golds, list | tuple) else [golds]
    texts = [_reference(prompt, gold) for gold in listed]
    if not texts:
        raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata `answer` is an empty list")
    return texts


def _reference(prompt: Prompt, gold: Any) -> str:
    if gold is None or (isinstance(gold, str) and not gold.strip()):
        raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no `answer`")
    if not isinstance(gold, str | int | float) or (isinstance(gold, float) and not math.isfinite(gold)):
        raise VerifierError(
            "bad_prompt", f"{prompt.prompt_id}: answer {str(gold)[:60]!r} is neither a text nor a number"
        )
    return _unwrapped(str(gold))


@lru_cache(maxsize=256)
def _unwrapped(text: str) -> str:
    """The reference itself, where a column holds the whole solution: after `####` (GSM8K), or in a box (MATH)."""
    after = _AFTER_HASHES.findall(text)
    return after[-1] if after else boxed_answers(text) or text


def _require_readable(prompt: Prompt, golds: list[str]) -> None:
    """Raises `bad_prompt` unless at least one reference can be compared with what is not the same text."""
    if not any(_is_readable(gold) for gold in golds):
        raise VerifierError("bad_prompt", f"{prompt.prompt_id}: answer {golds[0][:60]!r} cannot be read as mathematics")


@lru_cache(maxsize=1024)
def _is_readable(gold: str) -> bool:
    try:
        with cpu_budget(MAX_CPU_S):
            return is_readable(gold)
    except (OutOfWorkError, MemoryError, RecursionError):
        return True  # too large for the engine, but not without meaning

"""math-verify behind two functions: a text as sympy's objects, and whether two such texts are equal.

Owns: calling the library, and what must be done because of how it reads letters. Does not own: which texts it is given
(`equality`), and what ends a call that takes too long (`reading.work`).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from ring_async.verifiers.reading.work import outside_budget

MAX_CHARACTERS = 600
MAX_NESTING = 30
_FIRST_USES = (
    "x>1", "2x+3y=6", "(0, 1) \\cup (2, 3)", "\\{1, x\\}", "\\int_0^1 x dx", "\\sum_{k=1}^{3} k",
    "\\lim_{x \\to 0} \\frac{\\sin x}{x}", "\\begin{pmatrix}1&x\\\\2&3\\end{pmatrix}", "\\sin^2 x + \\sqrt{x}",
)  # fmt: skip
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])[iI](?![A-Za-z])")


@lru_cache(maxsize=64)
def parsed(text: str) -> tuple[Any, ...]:
    """Sympy's objects that math-verify reads a text as, most likely first; empty if it reads none.

    The last may be a string, which the library falls back to.
    """
    _load()
    return _parsed(text)


@lru_cache(maxsize=1)
def _load() -> None:
    """Import the library and use each of its parts once, which takes seconds and is no response's work."""
    with outside_budget():
        import math_verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its timeouts are off
        for text in _FIRST_USES:
            items = list(_parsed(text))
            math_verify.verify(items, items, timeout_seconds=None)
            math_verify.verify(list(_parsed("x+1")), items, timeout_seconds=None)
            math_verify.verify(list(_parsed("2x+1>3")), items, timeout_seconds=None)


def _parsed(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return tuple(
        parse(
            f"\\boxed{{{text}}}",
            extraction_config=[
                LatexExtractionConfig(
                    boxed_match_priority=0,
                    normalization_config=NormalizationConfig(malformed_operators=True, nits=True),  # units are ours
                ),
                ExprExtractionConfig(),
            ],
            parsing_timeout=None,  # type: ignore[arg-type]
        )
    )


def is_readable(text: str) -> bool:
    """Whether math-verify reads the text as an object, and not as a mere string."""
    return any(not isinstance(item, str) for item in parsed(text))


def is_equal(gold: str, answer: str, *, strict: bool, float_rounding: int) -> bool:
    """Whether math-verify takes two texts for the same object."""
    import math_verify

    golds, answers = list(parsed(gold)), list(parsed(answer))
    if not golds or not answers:
        return False
    letters = {symbol.name for symbol in _symbols(golds) | _symbols(answers)}
    if letters and letters <= {"i"} and (not strict or len(set(_IMAGINARY.findall(gold + " " + answer))) <= 1):
        golds, answers = _as_complex(golds), _as_complex(answers)
    return bool(math_verify.verify(golds, answers, float_rounding=float_rounding, strict=strict, timeout_seconds=None))


def is_nested_too_deeply(text: str) -> bool:
    """Whether its parser would take too long: the time doubles with every level."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_NESTING:
            return True
    return False


def _symbols(items: list[Any]) -> set[Any]:
    return {symbol for item in items for symbol in getattr(item, "free_symbols", ())}


def _as_complex(items: list[Any]) -> list[Any]:
    """Where `i` is the only letter it is the imaginary unit, which math-verify takes for a variable."""
    import sympy

    try:
        return [
            item.subs(dict.fromkeys(item.free_symbols, sympy.I)).expand()
            if getattr(item, "free_symbols", None)
            else item
            for item in items
        ]
    except Exception:  # sympy raises whatever the expression leads it to
        return items

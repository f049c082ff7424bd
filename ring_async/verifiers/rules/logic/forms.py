r"""Whether an answer has the form of an answer to its task, and other ways to write it.

Owns: forms, and spellings. Does not own: what a well-formed answer is worth (reasoning-gym's scorers).

Some scorers pay for having said anything (0.01 for any text, 0.05 for anything that parses, a share for text that holds
the right number somewhere, 1 for `nan` or for whatever does not say "True"). A model finds such payments before it
finds answers. So an answer without its task's form earns nothing:

* where the reference is a number, a number: with a sign, a fraction, digits grouped by threes, an exponent of ten;
* where it is true or false, yes or no: one of the two;
* where it is a JSON list or object: the same, not empty where the reference is not, with elements of the same type;
* for tasks in `_FORMS`: text of that pattern.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?"
_NUMBER = re.compile(rf"\$?[+-]?\$?({_DECIMAL})(?:/([0-9]{{1,400}}(?:\.[0-9]+)?))?%?")
_COMPLEX = re.compile(r"[+-]?\s?[0-9.]+\s?[ij]?|[+-]?\s?[0-9.]+\s?[+-]\s?[0-9.]*\s?[ij]|[+-]?\s?[ij]")
_PAIRED_WORDS = (frozenset({"true", "false"}), frozenset({"yes", "no"}))
_FORMS: Mapping[str, re.Pattern[str]] = {
    "boxnet": re.compile(r"\[\s*\{.*\}\s*\]|\{.*:.*\}", re.DOTALL),
    "complex_arithmetic": _COMPLEX,
    "countdown": re.compile(r"[0-9\s+\-*/().^]+"),
    "cryptarithm": re.compile(r"[A-Z]\s*=\s*[0-9](?:\s*,\s*[A-Z]\s*=\s*[0-9])*"),
    "graph_color": re.compile(r"\{\s*(?:[\"']?-?[0-9]+[\"']?\s*:.*)?\}", re.DOTALL),
    "polynomial_equations": re.compile(
        r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?(?:\s*,\s*[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)*|"
    ),
    "prime_factorization": re.compile(r"[0-9]+(?:\s*×\s*[0-9]+)*"),
    "propositional_logic": re.compile(r"[A-Z()∧∨¬→↔\s]+"),
    "puzzle24": re.compile(r"[0-9\s+\-*/().^]+"),
    "rush_hour": re.compile(r"[A-Z][+-][0-9]+(?:\s+[A-Z][+-][0-9]+)*"),
    "tsumego": re.compile(r"[A-Za-z][0-9]{1,2}"),
}
_RIGHT_OR_WRONG = frozenset(
    {"complex_arithmetic", "figlet_font", "fraction_simplification", "palindrome_generation", "polynomial_equations"}
    | {"spell_backward", "tsumego"}
)
"""Their scorers pay for distance, length or single letters: a constant guess would earn something everywhere."""
_EXPRESSION_TASKS = frozenset(
    {"countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"}
)
_ALMOST_RIGHT = 0.9
_SLACK = Fraction(2, 100)
"""How near a decimal number must be to be worth the scorer's look at its digits."""
_SIGNS = str.maketrans("−﹣－＋（），．", "---+(),.") | {0xFF10 + digit: str(digit) for digit in range(10)}
_TIMES = re.compile(r"\\times|\\cdot|[×·⋅∙＊*]")
_OVER = re.compile(r"\\div|[÷／]")
_WRAPPER = re.compile(r"\$\$?(?P<math>[^$]*)\$\$?|\\boxed\{(?P<boxed>.*)\}|\\\((?P<inline>.*)\\\)", re.DOTALL)


def spelled_plainly(task: str, answer: str) -> str:
    """The answer without wrappers (`$…$`, a box), with ASCII digits and signs, and its task's sign for a product."""
    plain = answer.strip()
    for _ in range(3):
        wrapped = _WRAPPER.fullmatch(plain)
        if wrapped is None:
            break
        plain = next(content for content in wrapped.groups() if content is not None).strip()
    plain = plain.translate(_SIGNS)
    if task == "prime_factorization":
        plain = " × ".join(factor.strip() for factor in _TIMES.split(plain))
    elif task in _EXPRESSION_TASKS:
        plain = _OVER.sub("/", re.sub(r"\\times|\\cdot|[×·⋅∙＊]", "*", plain))
    if re.fullmatch(rf"[+-]?{_DIGITS}\.", plain):
        plain = plain[:-1]
    return plain


def has_form(task: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether an answer could be one to this entry."""
    reference = _reference(entry)
    if reference and answer == reference:
        return True
    if task in _FORMS and not _FORMS[task].fullmatch(answer):
        return False
    if task in ("countdown", "propositional_logic"):
        return _uses_what_is_given(task, answer, entry.get("metadata") or {})
    if task == "sentence_reordering":
        return set(answer.split()) <= set(reference.split())
    if _number(reference) is not None:
        return _number(answer) is not None
    for words in _PAIRED_WORDS:
        if reference.lower() in words:
            return answer.lower() in words
    return _has_json_form(answer, reference)


def credit_kept(task: str, answer: str, entry: Mapping[str, Any], credit: float) -> float:
    """What is left of a scorer's credit for a well-formed answer.

    A number or a single word is right or wrong, and so are the answers to `_RIGHT_OR_WRONG`. Powers do not solve
    `countdown`, whose question allows four operations.
    """
    reference = _reference(entry)
    if reference and answer == reference:
        return credit
    wanted, given = _number(reference), _number(answer)
    if task not in _FORMS and wanted is not None and given is not None:
        slack = Fraction(0) if reference.lstrip("-").isdigit() else _SLACK * max(Fraction(1), abs(wanted))
        is_near = abs(given - wanted) <= slack
        return credit if is_near else 0.0
    is_right_or_wrong = task in _RIGHT_OR_WRONG or (task not in _FORMS and reference.isalpha())
    if is_right_or_wrong and credit < _ALMOST_RIGHT and answer.casefold() != reference.casefold():
        return 0.0
    if task == "countdown" and ("**" in answer or "^" in answer):
        return min(credit, 0.05)
    return credit


def _reference(entry: Mapping[str, Any]) -> str:
    """The entry's own answer; empty where a task has many."""
    answer = entry.get("answer")
    return "" if answer is None else str(answer).strip()


def _number(text: str) -> Fraction | None:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or len(text) > 800:
        return None
    try:
        value = Fraction(found[1].replace(",", "").rstrip(".")) / Fraction(found[2] or "1")
    except (ValueError, ZeroDivisionError):
        return None
    return -value if "-" in text[:2] else value


def _uses_what_is_given(task: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    if task == "countdown":
        given = {str(number) for number in (*metadata.get("numbers", ()), metadata.get("target", ""))}
        return {number.lstrip("0") or "0" for number in re.findall(r"[0-9.]+", answer)} <= given
    variables = set(metadata.get("variables", ()))
    return bool(variables & set(answer)) if variables else True


def _has_json_form(answer: str, reference: str) -> bool:
    wanted = _json(reference)
    if not isinstance(wanted, list | dict):
        return True
    given = _json(answer)
    if type(given) is not type(wanted) or (wanted and not given):
        return False
    if isinstance(wanted, list) and isinstance(given, list) and wanted:
        kinds = {_kind(item) for item in wanted}
        return all(_kind(item) in kinds for item in given) and any(given)
    return True


def _kind(item: Any) -> type:
    return float if isinstance(item, int | float) and not isinstance(item, bool) else type(item)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

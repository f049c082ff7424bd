"""Which answers may reach a scorer that evaluates them.

Owns: a sane length, and for scorers that call `eval` or sympy's `parse_expr` only what an answer needs. Does not own:
what such an answer is worth.
"""

from __future__ import annotations

import re

_MAX_ANSWER_CHARACTERS = 20_000
_MAX_EXPRESSION_CHARACTERS = 2000
_PARSED_TASKS = frozenset(
    {"countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"}
)
"""Their scorers call sympy's `parse_expr`."""
_EVALUATED_TASKS = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"})
"""Their scorers call `eval` where they expect a list."""
_EXPRESSION = re.compile(r"[\w\s+\-*/^().,|]*")
_LIST_OR_BOARD = re.compile(r"[\w\s,.\-\[\]'\"|]*")
_NAME = re.compile(r"[^\W\d]\w*")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "arcsin", "arccos", "arctan", "sinh", "cosh"}
    | {"tanh", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "pi", "abs", "Abs", "Integral"}
)
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")
_POWER_TOWER = re.compile(r"(?:\*\*|\^)[\s(\-+]*(?:\d{3,}|[\d.]+[\s)]*(?:\*\*|\^))")


def is_plausible_answer(task: str, answer: str) -> bool:
    """Whether an answer has a sane length and, where the task's scorer evaluates it, holds only what an answer needs.

    Expressions: numbers, one-letter symbols, elementary functions, operators, no attributes, no towers of powers.
    Lists and boards: words, numbers, quotes and brackets, but nothing that calls or computes.
    """
    if task in _EVALUATED_TASKS:
        return len(answer) <= _MAX_ANSWER_CHARACTERS and _LIST_OR_BOARD.fullmatch(answer) is not None
    if task in _PARSED_TASKS:
        return (
            len(answer) <= _MAX_EXPRESSION_CHARACTERS
            and _EXPRESSION.fullmatch(answer) is not None
            and _ATTRIBUTE.search(answer) is None
            and _POWER_TOWER.search(answer) is None
            and all(len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(answer))
        )
    return len(answer) <= _MAX_ANSWER_CHARACTERS

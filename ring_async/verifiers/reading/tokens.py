r"""The symbols of a formula: numbers, commands, letters, signs; known names in plain text are said as commands (`pi`).

Owns: text to tokens. Does not own: what they mean together (`expression`).
"""

from __future__ import annotations

import re

MAX_TOKENS = 2000

FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "ln",
        "log",
        "lg",
        "exp",
        "cis",
        "sqrt",
    ]
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "cosec": "csc"}
_PLAIN_NAMES = sorted([*FUNCTIONS, *_ALIASES, "pi", "infty", "infinity"], key=len, reverse=True)
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\[A-Za-z]+|\\.)|([A-Za-z])|(!!|\S))", re.DOTALL)
_PLAIN_NAME = re.compile("|".join(_PLAIN_NAMES))


class NotAnExpressionError(ValueError):
    """The text is not one formula of the grammar here."""


def tokens_of(text: str) -> list[str]:
    """The symbols of a formula in order.

    Raises:
        NotAnExpressionError: there are more than `MAX_TOKENS`.
    """
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        word = _PLAIN_NAME.match(text, position)
        if word is not None:
            name = word.group()
            tokens.append("\\" + _ALIASES.get(name, name))
            position = word.end()
            continue
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS:
            raise NotAnExpressionError("too many symbols")
        if match.group(3) and (word := _PLAIN_NAME.match(text, match.start(3))):
            position = word.start()
            continue
        tokens.append(match.group().strip())
        position = match.end()
    return tokens

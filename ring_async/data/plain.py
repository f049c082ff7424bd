"""Values of a row that can travel with a prompt: text, numbers, truth values, nothing, lists and objects of these.

Owns: what is passed on, what is rewritten as text, and why the rest is refused. A prompt's metadata go over the wire
(MessagePack: UTF-8 text, integers of 64 bits) and into JSON reports; what either cannot hold would fail inside an
actor, one prompt at a time.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

_MAX_DEPTH = 32
_BIG = "fits into no 64-bit integer; write it as text, in quotation marks"


class OddValueError(ValueError):
    """A value that cannot travel with a prompt; the message begins with its column."""


def plain_value(value: Any, column: str, depth: int = 0) -> Any:
    """The value as plain data; dates and decimals become text, tuples become lists.

    Args:
        value: of a row, as its file's reader gives it.
        column: path of the value, for the error.
        depth: of the lists and objects around it.

    Raises:
        OddValueError: it cannot travel, and why.
    """
    match value:
        case None | bool():
            return value
        case str():
            return _checked_text(value, column)
        case int():
            if not -(1 << 63) <= value < 1 << 64:
                raise OddValueError(f"{column}: {_shortened(value)} {_BIG}")
            return value
        case float():
            if not math.isfinite(value):
                raise OddValueError(f"{column}: {value} is not a number that JSON has; write null, or text")
            return value
        case list() | tuple() | dict() if depth >= _MAX_DEPTH:
            raise OddValueError(f"{column}: more than {_MAX_DEPTH} lists and objects within each other")
        case list() | tuple():
            return [plain_value(one, f"{column}[{place}]", depth + 1) for place, one in enumerate(value)]
        case dict():
            return {
                _checked_text(str(key), column): plain_value(one, f"{column}.{key}", depth + 1)
                for key, one in value.items()
            }
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
    raise OddValueError(
        f"{column}: {type(value).__name__} is no text, number, list or object; leave the column out, by naming those "
        "you need in `columns`"
    )


def _checked_text(text: str, column: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OddValueError(
            f"{column}: holds U+{ord(text[error.start]):04X}, half of a character (a lone surrogate); remove it"
        ) from None
    return text


def _shortened(value: int) -> str:
    return f"an integer of {value.bit_length()} bits" if value.bit_length() > 200 else str(value)

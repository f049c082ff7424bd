r"""Numbers as people write them, said as one formula: groups of digits, mixed numbers, repeating decimals, exponents.

Owns: text to text, before a formula is read. Does not own: values.

Where a comma may group digits or separate items, both readings are kept (`readings`): `100,200` is a number or two, but
inside brackets (`\{100,200,300\}`) it separates.
"""

from __future__ import annotations

import re

_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d|\.\d*,\d)")
_BLANK_GROUPED = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?! ?\d)")
_MIXED = re.compile(r"(?<![\d./^_}] )(?<![\d./^_}])(\d{1,18}) (\d{1,18})\s*/\s*(\d{1,18})(?![\d.!^])")
_TIMES_LETTER = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_SCIENTIFIC = re.compile(r"(?<=[\d.])\s?[eE]\s?([-+]?\d+)(?![\d.A-Za-z])")
_OVERLINE = re.compile(r"(\d*)\.(\d*)\s*\\(?:overline|bar|overset\{\\(?:cdot|bullet)\})\s*(?:\{(\d+)\}|(\d))")
_BRACKETED_PERIOD = re.compile(r"(?<!\d)(\d+)\.(\d*)\((\d+)\)")
_DOTTED = re.compile(r"(\d*)\.(\d*)\\dot\s*(?:\{(\d)\}|(\d))(?:(\d*)\\dot\s*(?:\{(\d)\}|(\d)))?")
_ENDLESS = re.compile(r"(\d+)\.(\d{2,40})\s*(?:\\ldots|\.\.\.)")
_PERIOD = re.compile(r"(\d{0,20}?)(\d{1,20}?)\2+$")
_BASE = re.compile(r"^(?:\(([0-9A-Fa-f]+)\)|([0-9A-Fa-f]+))_(?:\{?(?:\\text\{)?(\d{1,2}|[a-z]{3,9})\}{0,2})$")
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASE_PREFIX = re.compile(r"^0(?:([xX])([0-9A-Fa-f]{1,40})|([bB])([01]{1,160})|([oO])([0-7]{1,60}))$")
_RATIO_SIGN = re.compile(r"\s*:\s*|(?<=\d) to (?=\d)|(?<=\d)\s*比\s*(?=\d)")
_ORDINAL = re.compile(r"(?<=\d)\s?\^?\s*\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])\s*\}{0,2}")
_COMBINATIONS = re.compile(r"(?:\{\})?[_^](?:\{(\d+)\}|(\d+))\s*(?:\\text\{)?C\}?\s*_(?:\{(\d+)\}|(\d+))")
_DECIMAL_COMMA = re.compile(r"^([-+]?\d+),(\d+)$")


def plain_numbers(text: str) -> str:
    """One way to write each number: blanks between groups, mixed numbers, exponents and periods resolved."""
    if not any(character.isdigit() for character in text):
        return text
    text = _MIXED.sub(_mixed, _TIMES_LETTER.sub(r"\\times ", text))
    text = _BLANK_GROUPED.sub(lambda match: match.group().replace(" ", ""), text)
    text = _OVERLINE.sub(lambda match: _repeating(match[1], match[2], match[3] or match[4]), text)
    text = _DOTTED.sub(_dotted, text)
    text = _BRACKETED_PERIOD.sub(lambda match: _repeating(match[1], match[2], match[3]), text)
    text = _COMBINATIONS.sub(lambda match: f"\\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}", text)
    text = _ORDINAL.sub("", text)
    text = _ENDLESS.sub(_endless, text)
    return _SCIENTIFIC.sub(r" \\times 10^{\1}", text)


def grouped_reading(text: str) -> str:
    """The text with commas between groups of three digits taken out, wherever a comma can group.

    In brackets it can only where other commas are followed by a blank: `(1,200, 3)`, but not `(1,200)`.
    """
    if "," not in text:
        return text
    is_collection = any(bracket in text for bracket in "([{") and re.search(r"[\[({][^)\]}]*,[^)\]}]*[\])}]", text)
    if is_collection and ", " not in text:
        return text
    return _GROUPED.sub(lambda match: match.group().replace(",", ""), text)


def decimal_comma_reading(text: str) -> str:
    """`3,5` as `3.5`; the text itself where it is not such a number."""
    return _DECIMAL_COMMA.sub(r"\1.\2", text)


def ratio_parts(text: str) -> list[str] | None:
    """The terms of a ratio: `2:3:4`, `2 to 3`. None: it is none, or a time of day (`12:00`)."""
    parts = [part.strip() for part in _RATIO_SIGN.split(text)]
    if len(parts) < 2 or not all(parts) or any(part.startswith("0") for part in parts[1:]):
        return None
    return parts


def based_number(text: str) -> tuple[str, int] | None:
    r"""Digits and base of a number with a base as its index or prefix: `4343_{6}`, `110_{\text{two}}`, `0x1A`."""
    plain = "".join(text.split())
    prefixed = _BASE_PREFIX.match(plain)
    if prefixed is not None:
        return (prefixed[2] or prefixed[4] or prefixed[6]).lower(), 16 if prefixed[1] else 2 if prefixed[3] else 8
    match = _BASE.match(plain)
    base = (int(match[3]) if match[3].isdigit() else _BASE_WORDS.get(match[3])) if match else None
    return ((match[1] or match[2]).lower(), base) if match and base else None


def _mixed(match: re.Match[str]) -> str:
    r"""`3 1/2` as `3\frac{1}{2}`; `1 234/5` is no mixed number but 1234 fifths."""
    whole, above, below = match.groups()
    is_group = len(above) == 3 and int(above) > int(below)
    return match.group() if is_group else f"{whole}\\frac{{{above}}}{{{below}}}"


def _repeating(whole: str, start: str, period: str) -> str:
    r"""A decimal with a period as a fraction: 0.1(6) is `\frac{15}{90}`."""
    digits = int((whole or "0") + start + period) - int((whole or "0") + start)
    return f"\\frac{{{digits}}}{{{'9' * len(period) + '0' * len(start)}}}"


def _dotted(match: re.Match[str]) -> str:
    first = match[3] or match[4]
    last = match[6] or match[7]
    return _repeating(match[1], match[2], first + (match[5] or "") + last if last else first)


def _endless(match: re.Match[str]) -> str:
    """0.333… and 0.1666…: what repeats at the end goes on; without a repetition the text stays."""
    whole, digits = match[1], match[2]
    period = _PERIOD.fullmatch(digits)
    if period is None or (len(period[2]) == 1 and not digits.endswith(period[2] * 2)):
        return match.group()
    return _repeating(whole, period[1], period[2])

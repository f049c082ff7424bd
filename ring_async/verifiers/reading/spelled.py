r"""Numbers in words, said in LaTeX: `负三` is `-3`, `one half` is `\frac{1}{2}`, `3万` is `3 \times 10^{4}`.

Owns: numerals of Chinese and English as whole answers, Chinese ones before a measure word, and the words for powers of
ten behind digits. Does not own: numbers within sentences.
"""

from __future__ import annotations

import re
from functools import lru_cache

_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_NUMERAL = "[零〇一二两三四五六七八九十百千万亿]"
_WHOLE = re.compile(f"{_NUMERAL}+")
_CHINESE = re.compile(
    f"(?P<sign>[负正]?)(?:(?P<percent>百分之)|(?:(?P<mixed>{_NUMERAL}+)又)?(?P<below>{_NUMERAL}+)分之)?"
    f"(?P<whole>{_NUMERAL}+)(?:点(?P<decimals>[零〇一二三四五六七八九]+))?"
    "(?P<measure>[个只人本支张条件名辆头棵朵块颗位次种组对元米克天年度倍岁升]|小时|分钟|厘米|千米|公里|千克|公斤)?"
)
_MAX_CHARACTERS = 60

_SMALL_LIST = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_SMALL = {word: value for value, word in enumerate(_SMALL_LIST.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
_MINUS = re.compile(r"^(?:minus|negative)\s+", re.IGNORECASE)
_POWER_BEHIND_DIGITS = re.compile(
    r"(?<=\d)\s*(?:\\text\s*\{\s*(?P<marked>thousand|million|billion|trillion)\b\s*(?P<rest>[^{}]*)\}"
    r"|\b(?P<plain>thousand|million|billion|trillion)(?![A-Za-z])|(?P<chinese>[万亿]))",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def spelled_number(text: str) -> str | None:
    """A numeral in words as LaTeX, with the measure word behind a Chinese one; None where the text is no numeral."""
    text = text.strip()
    if len(text) > _MAX_CHARACTERS:
        return None
    return _english(text) if text.isascii() else _chinese(text)


def powers_in_digits(text: str) -> str:
    r"""Words for powers of ten behind digits as powers: `5 million` is `5 \times 10^{6}`."""
    return _POWER_BEHIND_DIGITS.sub(_power, text)


def _power(match: re.Match[str]) -> str:
    if match["chinese"]:
        return f" \\times 10^{{{4 if match['chinese'] == '万' else 8}}} "
    power = _POWERS[(match["marked"] or match["plain"]).lower()]
    rest = f"\\text{{{match['rest']}}}" if match["rest"] else ""
    return f" \\times 10^{{{power}}} {rest}"


def _chinese(text: str) -> str | None:
    match = _CHINESE.fullmatch(text)
    if match is None:
        return None
    whole = _chinese_value(match["whole"])
    number = str(whole)
    if match["decimals"]:
        number += "." + "".join(str(_DIGITS[character]) for character in match["decimals"])
    if match["percent"]:
        number += "\\%"
    if match["below"]:
        number = f"\\frac{{{number}}}{{{_chinese_value(match['below'])}}}"
        number = f"{_chinese_value(match['mixed'])}{number}" if match["mixed"] else number
    return ("-" if match["sign"] == "负" else "") + number + (match["measure"] or "")


def _chinese_value(text: str) -> int:
    """The value of a whole numeral: 二十五 is 25, 一亿零三万 is 100030000."""
    total = section = 0
    digit: int | None = None
    for character in text:
        if character in _DIGITS:
            digit = _DIGITS[character] + (10 * digit if digit else 0)  # 二五: digits read one by one
        elif character in _PLACES:
            section, digit = section + (digit or 1) * _PLACES[character], None
        elif character == "万":
            total, section, digit = total + (section + (digit or 0)) * 10**4, 0, None
        else:
            total, section, digit = (total + section + (digit or 0)) * 10**8, 0, None
    return total + section + (digit or 0)


def _english(text: str) -> str | None:
    lowered = text.casefold()
    sign = "-" if _MINUS.match(lowered) else ""
    words = [word for word in re.split(r"[\s-]+", _MINUS.sub("", lowered)) if word]
    if not words or not all(word.isalpha() for word in words):
        return None
    below = _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))
    if below is not None:
        return _english_fraction(sign, words, below)
    value = _english_value(words)
    return None if value is None else f"{sign}{value}"


def _english_fraction(sign: str, words: list[str], below: int) -> str | None:
    """`three quarters`, `two and a half`; `half` and `quarter` stand alone, `third` may be a place in a row."""
    *counted, part = words
    if not counted and part not in ("half", "quarter"):
        return None
    whole: int | None = 0
    if "and" in counted:
        split = len(counted) - 1 - counted[::-1].index("and")
        whole, counted = _english_value(counted[:split]), counted[split + 1 :]
    above = 1 if counted in (["a"], []) else _english_value(counted)
    return None if above is None or whole is None else f"{sign}{whole or ''}\\frac{{{above}}}{{{below}}}"


def _english_value(words: list[str]) -> int | None:
    total = section = 0
    has_number = False
    for word in words:
        if word in _SMALL or word in _TENS:
            section += _SMALL.get(word, _TENS.get(word, 0))
        elif word == "hundred":
            section = (section or 1) * 100
        elif word in _POWERS:
            total, section = total + (section or 1) * 10 ** _POWERS[word], 0
        elif word == "and" and has_number:
            continue
        elif word != "a" or has_number:
            return None
        has_number = has_number or word != "a"
    return total + section if has_number else None

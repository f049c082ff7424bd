r"""Times of day and dates: `3:30 \text{ p.m.}` is the time `15:30`, `July 4, 2020` the day `2020-07-04`.

Owns: reading them and whether two are the same. Does not own: durations (`amounts`), ratios (`numerals`).

Invariant: what one side leaves out (a. m. or p. m., the year) is passed over; what both write is compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ring_async.verifiers.reading.latex import without_text_commands

_MAX_CHARACTERS = 60
_CLOCK = re.compile(
    r"^(?:at )?(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?\s*"
    r"(?P<half>[ap]\.?\s?m\.?|noon|midnight|o'?clock(?: (?:in the )?(?P<part>morning|afternoon|evening))?)?$",
    re.IGNORECASE,
)
_CHINESE_CLOCK = re.compile(
    r"^(?P<half>上午|早上|下午|晚上|中午)?(?P<hour>\d{1,2})(?:点|时)(?:(?P<minute>[0-5]?\d)分?|(?P<thirty>半)|整)?$"
)
_MONTHS = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
_MONTH = "(?P<month>" + "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS) + r")\.?"
_WEEKDAY = "(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,? )?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"^{_WEEKDAY}{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?$",
        rf"^{_WEEKDAY}(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? (?P<year>\d{{4}}))?$",
        r"^(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})$",
        r"^(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]$",
    )
)


@dataclass(frozen=True, slots=True)
class _Time:
    """A time of day. `is_certain`: whether it says which half of the day it is in."""

    seconds: int
    is_certain: bool
    is_marked: bool
    """Whether it can be nothing else: `3:30` may be a ratio."""


@dataclass(frozen=True, slots=True)
class _Date:
    day: int
    month: int
    year: int | None


def same_moment(gold: str, answer: str) -> bool | None:
    """Whether two texts are the same time of day or the same date; None where they are not both such."""
    if len(gold) > _MAX_CHARACTERS or len(answer) > _MAX_CHARACTERS:
        return None
    one, other = _date(gold), _date(answer)
    if one is not None and other is not None:
        years = {one.year, other.year} - {None}
        return (one.day, one.month) == (other.day, other.month) and len(years) < 2
    times = _time(gold), _time(answer)
    if times[0] is None or times[1] is None or not (times[0].is_marked or times[1].is_marked):
        return None
    if times[0].is_certain and times[1].is_certain:
        return times[0].seconds == times[1].seconds
    return (times[0].seconds - times[1].seconds) % (12 * 3600) == 0


@lru_cache(maxsize=512)
def _time(text: str) -> _Time | None:
    plain = " ".join(without_text_commands(text).split()).strip(" .")
    if plain.casefold() in ("noon", "midnight"):
        return _Time(12 * 3600 if plain.casefold() == "noon" else 0, is_certain=True, is_marked=True)
    match = _CLOCK.match(plain) or _CHINESE_CLOCK.match(plain)
    if match is None:
        return None
    groups = match.groupdict()
    half = _half_of_day((groups["half"] or "").casefold() + (groups.get("part") or "").casefold())
    hour = int(groups["hour"])
    minute = 30 if groups.get("thirty") else int(groups["minute"] or 0)
    if hour > 24 or (half and hour > 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    is_marked = bool(groups["half"]) or not plain.isascii() or (bool(groups["minute"]) and hour > 12)
    seconds = (hour % 24 * 60 + minute) * 60 + int(groups.get("second") or 0)
    return _Time(seconds, is_certain=bool(half) or hour > 12 or hour == 0, is_marked=is_marked)


def _half_of_day(words: str) -> str:
    """`a` before noon, `p` after it; empty: not said."""
    if words.startswith(("a", "上", "早", "midnight")) or words.endswith("morning"):
        return "a"
    if words.startswith(("p", "下", "晚", "中", "noon")) or words.endswith(("afternoon", "evening")):
        return "p"
    return ""


@lru_cache(maxsize=512)
def _date(text: str) -> _Date | None:
    plain = " ".join(without_text_commands(text).split()).strip(" .")
    for pattern in _DATES:
        match = pattern.match(plain)
        if match is None:
            continue
        month = match["month"].casefold()
        number = (
            int(month) if month.isdigit() else next(i for i, name in enumerate(_MONTHS, 1) if name[:3] == month[:3])
        )
        if not (1 <= number <= 12 and 1 <= int(match["day"]) <= 31):
            return None
        return _Date(int(match["day"]), number, int(match["year"]) if match["year"] else None)
    return None

r"""Units: told from numbers, spelled as pint wants them, and converted.

Owns: what may be a unit and which units are of a kind. Does not own: numbers.

Units pass a strict grammar before pint sees them, so no response can make it compute.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ring_async.verifiers.reading.latex import DOLLAR

MAX_UNIT_CHARACTERS = 80

_PIECE = re.compile(r"[A-Za-zµμΩ%Å°]+|[*/()]|(?:\^|\*\*)\s*(?:[{(]\s*[-+]?\d{1,2}\s*[})]|[-+]?\d{1,2})|\s+|1(?=\s*/)")
_ALIASES = {
    "%": "percent", "μ": "µ", "Ω": "ohm", "ohms": "ohm", "mins": "minute", "hrs": "hour", "secs": "second",
    "sec": "second", "yrs": "year", "lbs": "pound", "ozs": "ounce", "sq": "square", "degrees": "degree",
    "celsius": "degC",
    "fahrenheit": "degF", "kelvins": "kelvin", "kph": "km/hour", "kmph": "km/hour", "cc": "cm**3", "rads": "radian",
    "℃": "degC", "moles": "mole",
    "inches": "inch", "feet": "foot", "litres": "liter", "metres": "meter", "amps": "ampere",
    "revolutions": "turn", "revs": "turn", "ev": "eV", "kev": "keV", "gev": "GeV", "khz": "kHz", "mhz": "MHz",
    "hz": "Hz", "kpa": "kPa", "pa": "Pa", "kj": "kJ", "kw": "kW", "electronvolts": "eV", "gauss": "gauss_of_si",
    "pH": "dimensionless", "G": "gauss_of_si",
}  # fmt: skip
_CHINESE = {
    "元": "yuan", "块": "yuan", "块钱": "yuan", "角": "jiao", "分": "fen", "人民币": "yuan",
    "美元": "dollar", "欧元": "euro",
    "米": "meter", "厘米": "cm", "毫米": "mm", "千米": "km", "公里": "km", "克": "gram",
    "千克": "kg", "公斤": "kg", "小时": "hour", "分钟": "minute", "秒": "second", "天": "day", "度": "degree",
    "升": "liter",
    "毫升": "mL", "分米": "dm", "平方米": "m^2", "平方厘米": "cm^2", "平方千米": "km^2", "平方分米": "dm^2",
    "立方米": "m^3",
    "立方厘米": "cm^3", "立方分米": "dm^3", "吨": "tonne", "毫克": "mg", "周": "week", "年": "year",
    "千米/小时": "km/hour", "千米/时": "km/hour", "公里/小时": "km/hour", "米/秒": "m/s", "摄氏度": "degC",
}  # fmt: skip
_CURRENCIES = {
    DOLLAR: "dollar",
    "€": "euro",
    "£": "pound",
    "¥": "yuan",
    "₹": "rupee",
    "₩": "won",
    "₽": "ruble",
    "¢": "cent",
}
_CURRENCY_WORDS = {
    "usd": "dollar",
    "bucks": "dollar",
    "eur": "euro",
    "gbp": "pound",
    "rmb": "yuan",
    "cny": "yuan",
    "rs": "rupee",
    "inr": "rupee",
}
_DEFINITIONS = (
    "dollar = [dollar]", "cent = dollar / 100 = _ = penny = pennies", "euro = [euro]", "yuan = [yuan]",
    "jiao = yuan / 10", "gauss_of_si = 1e-4 tesla", "fen = yuan / 100",
)  # fmt: skip
_CURRENCY_PREFIX = re.compile(rf"^([-+]?)\s*([{''.join(_CURRENCIES)}]|(?:USD|EUR|GBP|RMB|CNY|INR|Rs)\b\.?)\s*(?=[\d.])")
_CURRENCY_CODE = re.compile(r"\s*([A-Za-z]{3,7})\s*$")
_COMPASS = re.compile(r"\s*\((?:[a-z .]+)\)$|\s+(?:approximately|approx\.?|or so|each|total|in total|altogether)$")
_FRACTION = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_POWER_WORDS = re.compile(r"\b(square|cubic|sq|cu)\s+([A-Za-z]+)")
_TRAILING_POWER_WORDS = re.compile(r"\b([A-Za-z]+)\s+(squared|cubed)\b")
_NAMED_DEGREES = re.compile(r"(?:°|degrees?)\s*(celsius|centigrade|fahrenheit)", re.IGNORECASE)
_ELECTRON_VOLTS = re.compile(r"\b(kilo|mega|giga|)[ -]?electron[ -]?volts?\b", re.IGNORECASE)
_SHORT_WORD = re.compile(r"^[A-Za-z]{4,}(?:[ /-][A-Za-z]+){0,5}$")
_FACTOR = r"[A-Za-zµ]+(?:\s?\^\(?-?\d\)?)?"
_WRITTEN_UNIT = re.compile(rf"{_FACTOR}(?:(?:\s?[/*]\s?|\s)\(?{_FACTOR}\)?){{0,3}}")
_COMMON = frozenset(
    [
        *("cm", "mm", "km", "dm", "nm", "um", "µm", "kg", "mg", "ft", "in", "yd", "mi", "lb", "lbs", "oz", "hr", "hrs"),
        *("min", "mins", "sec", "secs", "ms", "ns", "yr", "yrs", "ml", "mL", "cL", "dL", "mph", "kmh", "kph", "Hz"),
        *("kHz", "MHz", "GHz", "Pa", "kPa", "MPa", "kJ", "MJ", "kW", "MW", "kWh", "kN", "eV", "keV", "mol", "rad"),
        *("deg", "cal", "kcal", "psi", "atm", "bar", "amp", "ohm", "cc", "gal", "kV", "mV", "mA", "kB", "MB", "GB"),
        *("TB", "usd", "sq", "cu", "pt", "pts"),
    ]
)
"""Short units read without a mark: with prefixes nearly any two letters are a unit of pint's (`ab` is an attobit)."""
_SYMBOLS = frozenset("NJWVAKCFTH")
LETTER_UNITS = frozenset("m g s h L l")
"""Single letters that a question without variables can only mean as units."""


def plain_unit(text: str) -> str:
    r"""A unit without LaTeX, brackets around remarks, and number words: `\text{ m/s}^2` is `m/s^2`."""
    text = _FRACTION.sub(r" \1/(\2) ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text)
    text = re.sub(r"\^\s*\{([^{}]*)\}", r"^(\1)", text.replace("\\text", " ")).replace("{", " ").replace("}", " ")
    text = text.replace("\\Omega", "ohm").replace("\\mu", "µ").replace("\\cdot", "*")
    text = text.replace("\\AA", "Å").replace("\\ell", "L").replace("\\times", "*").replace("\\%", "%")
    text = re.sub(r"(?<=[A-Za-z])(-?[1-4])(?![\d.])", r"^(\1)", text)
    text = re.sub(r"(?:°|degrees?)\s*([CFK])\b", r"deg\1", text)
    text = _NAMED_DEGREES.sub(lambda match: f"deg{match[1][0].upper()}", text)
    text = _ELECTRON_VOLTS.sub(lambda match: {"k": "keV", "m": "MeV", "g": "GeV"}.get(match[1][:1].lower(), "eV"), text)
    text = text.replace("°", " degree ")
    text = re.sub(r"([A-Za-z])\s*(\^|\*\*)", r"\1\2", re.sub(r"µ\s+(?=[A-Za-z])", "µ", " ".join(text.split())))
    for symbol, name in _CURRENCIES.items():
        text = text.replace(symbol, name)
    text = _COMPASS.sub("", text).strip(" .,;")
    text = re.sub(r"\s+per\s+", "/", text)
    text = _POWER_WORDS.sub(lambda match: f"{match[2]}^{2 if match[1] in ('square', 'sq') else 3}", text)
    text = _TRAILING_POWER_WORDS.sub(lambda match: f"{match[1]}^{2 if match[2] == 'squared' else 3}", text)
    return _CHINESE.get(text, text).removeprefix("的")


def move_currency(text: str) -> str:
    """A currency's sign stands behind the amount: `€5` is `5 €`."""
    match = _CURRENCY_PREFIX.match(text)
    if match is None:
        return text
    amount, sign = text[match.end() :], match[2]
    name = _CURRENCIES.get(sign, _CURRENCY_WORDS.get(sign.rstrip(".").lower(), ""))
    code = _CURRENCY_CODE.search(amount)
    if code is not None and is_same_unit(code[1], name):
        amount = amount[: code.start()]
    return f"{match[1]}{amount} {sign if sign in _CURRENCIES else name}"


def pint_spelling(text: str) -> str | None:
    """The unit in pint's spelling, or None if it holds anything that no unit needs."""
    if len(text) > MAX_UNIT_CHARACTERS:
        return None
    text = text.replace("^{", "^(").replace("}", ")").replace("{", "(")
    pieces, position = [], 0
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            return None
        piece = match.group()
        if piece[0] in "^*" and len(piece) > 1:
            piece = "**(" + re.sub(r"[^\d-]", "", piece) + ")"
        pieces.append(_ALIASES.get(piece, _ALIASES.get(piece.lower(), piece) if len(piece) > 3 else piece))
        position = match.end()
    joined = "".join(pieces).strip().replace("μ", "µ").replace("Ω", "ohm")
    return re.sub(r"(?<=[\w)])\s+(?=[A-Za-zµ(])", " * ", joined)


@lru_cache(maxsize=1)
def registry() -> Any:
    """Pint's registry of units, built once in a process."""
    import pint  # slow to import, and only needed where there are units

    units: Any = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for definition in _DEFINITIONS:
        units.define(definition)
    return units


@lru_cache(maxsize=1024)
def parsed_unit(unit: str) -> Any | None:
    """Pint's unit, or None if pint knows none of that name."""
    try:
        return registry().parse_units(unit)
    except Exception:  # pint raises many kinds, also its tokenizer's own
        return None


@lru_cache(maxsize=1024)
def converted(value: float, unit: str, to: str) -> float | None:
    """The value in another unit, or None where that is impossible. An empty unit is a plain number.

    Args:
        value: in `unit`.
        unit: in pint's spelling.
        to: in pint's spelling.
    """
    source, target = (parsed_unit(unit) if unit else ""), (parsed_unit(to) if to else "")
    if source is None or target is None:
        return None
    try:
        return float(registry().Quantity(value, source).to(target).magnitude)
    except Exception:  # another dimension, or an offset unit in a product
        return None


def is_same_unit(one: str, other: str) -> bool:
    """Whether two units are one, by their words: `dollars` and `USD` are, `m` and `M` are not."""
    return one == other or _word(one) == _word(other)


def ratio(one: str, other: str) -> float | None:
    """How many of `other` one of `one` is; None where pint does not know one of them or they are of different kinds."""
    spelled, spelled_other = pint_spelling(one), pint_spelling(other)
    if not spelled or not spelled_other or parsed_unit(spelled) is None or parsed_unit(spelled_other) is None:
        return None
    zero = converted(0.0, spelled, spelled_other)
    return converted(1.0, spelled, spelled_other) if zero == 0.0 else None


@lru_cache(maxsize=1024)
def is_known(unit: str) -> bool:
    """Whether pint knows the unit."""
    spelled = pint_spelling(unit)
    return bool(spelled) and parsed_unit(spelled or "") is not None


def looks_like_unit(text: str, *, was_marked: bool, has_blank: bool) -> bool:
    r"""Whether what follows a number is its unit, rather than a variable.

    Args:
        text: from `plain_unit`.
        was_marked: it stood in `\text{…}` or is a currency's or degree's sign: then any words are.
        has_blank: there was a blank between it and the number.
    """
    if not text or len(text) > MAX_UNIT_CHARACTERS:
        return False
    if was_marked:
        return True
    if not text.isascii():
        return not any(character in "()[]{}=<>,+\\" or character.isdigit() for character in text)
    if len(text) == 1:
        return text in LETTER_UNITS or (has_blank and text in _SYMBOLS)
    if _SHORT_WORD.match(text):
        return has_blank or is_known(text)
    if not _WRITTEN_UNIT.fullmatch(text):
        return False
    pieces = re.findall("[A-Za-zµ]+", text)
    if len(pieces) == 1 and len(pieces[0]) == 1:
        return pieces[0] == "m"  # m^2; any other letter with a power is a variable
    return all(
        piece in _COMMON or (len(piece) > 3 and is_known(piece)) or piece in (LETTER_UNITS | _SYMBOLS)
        for piece in pieces
    ) and (has_blank or any(piece in _COMMON or piece == "m" for piece in pieces))


def _word(unit: str) -> str:
    word = unit.casefold().strip()
    word = _CURRENCY_WORDS.get(word, word)
    return word.removesuffix("s") if len(word) > 3 else word

"""Characters outside ASCII that people and models write in answers, said in ASCII and LaTeX.

Owns: fullwidth and mathematical letters and digits, signs, superscripts, vulgar fractions, roots, bars and dots
above digits. Does not own: LaTeX (`latex`), or what a number means (`numerals`, `spelled`).

Invariant: ASCII text comes back as it was.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺⁽⁾ⁿⁱ", "0123456789-+()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₋₊₍₎ₙᵢ", "0123456789-+()ni")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺⁽⁾ⁿⁱ]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₋₊₍₎ₙᵢ]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]*\)|\{[^{}]*\})")
_ROOT_NAMES = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_MARKED_DIGITS = re.compile("(?:\\d[\u0304\u0305\u0307])+")
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "―": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "－": "-", "⁃": "-",
    "×": "\\times ", "⨯": "\\times ", "✕": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "•": "\\cdot ",
    "÷": "\\div ", "⁄": "/", "∕": "/", "∶": ":", "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ",
    "≤": "\\le ", "⩽": "\\le ", "≦": "\\le ", "≥": "\\ge ", "⩾": "\\ge ", "≧": "\\ge ", "≠": "\\ne ", "≈": "\\approx ",
    "≡": "\\equiv ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∉": "\\notin ", "∅": "\\emptyset ",
    "⌀": "\\emptyset ", "∖": "\\setminus ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "⟨": "\\langle ", "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ",
    "∠": "\\angle ", "△": "\\triangle ", "′": "'", "…": "\\ldots ", "⋯": "\\ldots ", "∑": "\\sum ", "∫": "\\int ",
    "→": "\\to ", "∧": "\\wedge ", "∨": "\\vee ", "％": "%", "℃": "^\\circ C", "℉": "^\\circ F", "º": "°", "˚": "°",
    "。": ".", "、": ",", "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "【": "[", "】": "]", "｜": "|",
    "“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ",
    "\u3000": " ", "\u200b": "", "\u2060": "", "\ufeff": "", "\u2061": "", "\u2062": "", "µ": "μ",
}  # fmt: skip
_GREEK_NAMES = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _GREEK_NAMES, strict=True))
_KEPT = frozenset("°μΩ€£¥₹₩₽$")
"""Characters that name units stay as they are: `units` reads them."""


def plain_characters(text: str, *, greek: bool = True) -> str:
    r"""The text in ASCII and LaTeX, as far as its characters have a meaning there: `x²` is `x^{2}`, `－３` is `-3`.

    Args:
        text: what was written.
        greek: say Greek letters as commands (`π` as `\pi `); μ and Ω stay, since they name units.
    """
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_SUBSCRIPTS) + "}", text)
    text = _ROOT.sub(_root, text)
    text = _MARKED_DIGITS.sub(_marked_digits, text)
    pieces: list[str] = []
    for character in text:
        pieces.append(_plain(character, pieces[-1] if pieces else "", greek=greek))
    return "".join(pieces)


def _marked_digits(match: re.Match[str]) -> str:
    """Digits with a bar or dot above each of them, or above the first and the last: a period."""
    digits = match.group()[::2]
    return f"\\overline{{{digits}}}" if match.group()[1] != "\u0307" else "".join(f"\\dot{{{d}}}" for d in digits)


def _root(match: re.Match[str]) -> str:
    inside = match.group(2)
    return f"{_ROOT_NAMES[match.group(1)]}{{{inside[1:-1] if inside[0] in '({' else inside}}}"


def _plain(character: str, before: str, *, greek: bool) -> str:
    if character.isascii() or character in _KEPT:
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    decimal = unicodedata.decimal(character, None)
    if decimal is not None:
        return str(decimal)
    if greek and character in _GREEK:
        return f"\\{_GREEK[character]} "
    folded = unicodedata.normalize("NFKC", character)
    if "⁄" in folded:  # ½: after a digit it makes a mixed number
        numerator, _, denominator = folded.partition("⁄")
        blank = " " if before[-1:].isdigit() else ""
        return f"{blank}{numerator}/{denominator}" if denominator else f"{blank}{numerator}/"
    if folded == character:
        return character
    if greek and folded in _GREEK:
        return f"\\{_GREEK[folded]} "
    return "\\" + folded if folded in "{}" and folded else folded

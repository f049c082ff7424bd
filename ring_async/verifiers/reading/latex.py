r"""LaTeX without what does not change its meaning: delimiters, fonts, colours, spacing, sizes, redundant braces.

Owns: text to text. Does not own: numbers and their groups (`numerals`), units (`units`), or lists (`shapes`).

Invariants: time is linear in the text but for a bounded number of passes; `\text{…}` around words stays, because it
says that letters are words and not variables.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ring_async.verifiers.reading.characters import plain_characters

DOLLAR = "＄"
"""Stands for a dollar sign that means money; plain ones are LaTeX's delimiters and are dropped."""

_MAX_PASSES = 8
_SAME_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le", "lt": "<", "geq": "ge", "geqslant": "ge", "gt": ">", "neq": "ne", "varnothing": "emptyset",
    "degree": "^\\circ", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "lbrace": "{",
    "rbrace": "}", "lparen": "(", "rparen": ")", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")",
    "iff": "=", "mathord": "",
    "ast": "cdot", "bullet": "cdot", "simeq": "approx", "land": "wedge", "surd": "sqrt", "lor": "vee", "percent": "%",
}  # fmt: skip
_DROPPED_COMMANDS = frozenset(
    [
        "left",
        "right",
        "bigl",
        "bigr",
        "Bigl",
        "Bigr",
        "biggl",
        "biggr",
        "Biggl",
        "Biggr",
        "big",
        "Big",
        "bigg",
        "Bigg",
        "middle",
        "displaystyle",
        "textstyle",
        "scriptstyle",
        "bf",
        "it",
        "rm",
        "sf",
        "tt",
        "boldmath",
        "normalsize",
        "large",
        "Large",
        "LARGE",
        "huge",
        "Huge",
        "small",
        "limits",
        "nolimits",
        "mathstrut",
        "strut",
        "blacksquare",
        "square",
        "qed",
        "Box",
        "centering",
        "noindent",
    ]
)
_FONTS = frozenset(
    [
        "textbf",
        "mathbf",
        "boldsymbol",
        "bm",
        "mathit",
        "textit",
        "mathsf",
        "textsf",
        "mathtt",
        "texttt",
        "mathnormal",
        "underline",
        "overbrace",
        "underbrace",
        "emph",
        "boxed",
        "fbox",
        "framebox",
        "mathop",
        "mathcal",
        "ensuremath",
        "textnormal",
        "uline",
        "hbox",
        "cancel",
        "smash",
        "mathstrut",
    ]
)
_WORD_FONTS = frozenset(["text", "textrm", "mathrm", "mbox", "operatorname"])
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?(?:[ \t]*(?=[{\\]))?")
_COLOR = re.compile(r"\\(?:color|textcolor|colorbox)\s*(?:\[[^\]{}]*\])?\s*\{[^{}]*\}")
_PHANTOM = re.compile(r"\\(?:phantom|hphantom|vphantom|label|tag|hspace|vspace|kern)\*?\s*\{[^{}]*\}")
_THIN_SPACES = re.compile(r"(?<!\\)\\[,;:>! ]|~|\\(?:thinspace|medspace|thickspace|enspace|nobreakspace)(?![A-Za-z])")
_WIDE_SPACES = re.compile(r"\\q?quad(?![A-Za-z])")
_LINE_BREAK = re.compile(r"\\\\(?![A-Za-z])|\\newline(?![A-Za-z])")
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z])")
_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`"), ('"', '"'))
_GROUPED_NUMBER = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\\,|\\!|,\\!|\\;|\\:|\\ |~|\{,\}|\{\\,\})\d{3})+(?!\d)"
)  # separators of LaTeX alone: nothing else can be meant
_GROUP_SEPARATOR = re.compile(r"\\[,!;: ]|[~,{}]")
_DECIMAL_BRACE_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_SYSTEM = re.compile(
    r"\\begin\{(cases|aligned|align\*?|array)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*?)\\end\{\1\}", re.DOTALL
)
_BRACKETED_WORDS = re.compile(r"\(\s*\\text\s*\{([^{}]*)\}\s*\)")
_BLACKBOARD = re.compile(r"\\(?:([RNZQC])|Reals)(?![A-Za-z])")
_RAISED_O = re.compile(r"(?<=\d)\s*\^\s*\{?o\}?(?![A-Za-z])")
_INFINITY = re.compile(r"(?<![A-Za-z\\])infinity(?![A-Za-z])")
_PLAIN_ALREADY = re.compile(r"[A-Za-z0-9 .,+\-/()=_^!%:;]*")
_ENDS = " \t\r\n;,.:"


def plain_latex(text: str) -> str:
    r"""The same mathematics in the fewest commands: `$\dfrac{1}{2}\,.$` is `\frac{1}{2}`, `\textbf{(B)}` is `(B)`.

    Unicode is said in LaTeX, `**` is `^`, a line break or wide space is `;`, numbers grouped by LaTeX's separators are
    joined. Degrees are `^\circ`. Words stay in `\text{…}`.
    """
    text = text.strip()
    if _PLAIN_ALREADY.fullmatch(text) and "!=" not in text and "infinity" not in text and "^o" not in text:
        return text.rstrip(_ENDS if not text.endswith("...") else "").lstrip(";,:")
    text = _without_delimiters(plain_characters(text).strip())
    text = text.replace("\\$", DOLLAR)
    text = text.replace("$", DOLLAR if text.count("$") == 1 else "")  # one alone delimits nothing
    text = text.replace("\\%", "%").replace("\\&", "&").replace("**", "^")
    text = _INFINITY.sub(r"\\infty ", _SYSTEM.sub(_system, text) if "\\begin" in text else text)
    has_environment = "\\begin" in text
    if not has_environment:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
        text = _LINE_BREAK.sub(" ; ", text)
    text = _GROUPED_NUMBER.sub(lambda match: _GROUP_SEPARATOR.sub("", match.group()), text)
    text = _DECIMAL_BRACE_COMMA.sub(".", text)
    text = _PHANTOM.sub("", _COLOR.sub("", text))
    text = _WIDE_SPACES.sub(" ; ", _THIN_SPACES.sub(lambda match: "" if match.group() == "\\!" else " ", text))
    text = _BLACKBOARD.sub(lambda match: f"\\mathbb{{{match[1] or 'R'}}}", _RAISED_O.sub(r"^\\circ ", text))
    text = _COMMAND.sub(_same_command, text)
    text = text.replace("°", "^\\circ ").replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\ne ")
    for _ in range(_MAX_PASSES):
        before = text
        text = _BRACKETED_WORDS.sub(r"\\text{(\1)}", _without_fonts(text))
        text = _without_delimiters(_without_outer_braces(text).strip(_ENDS if not text.endswith("...") else " ;,"))
        if text == before:
            break
    return text


@lru_cache(maxsize=1024)
def squeezed(text: str) -> str:
    r"""A form for comparison as text: no blanks, no `\text`, no braces around single characters, no leading plus."""
    text = _TEXT_COMMAND.sub("", text)
    text = "".join(text.split()).replace("\\cdot", "*").replace("\\times", "*").replace("...", "\\ldots")
    text = _SINGLE.sub(r"\1", text)
    return text[1:] if text.startswith("+") else text


def without_text_commands(text: str) -> str:
    r"""`\text{cm}` is ` cm `."""
    return _TEXT_GROUP.sub(r" \1 ", text).strip() if "\\text" in text else text


_TEXT_COMMAND = re.compile(r"\\text(?=\{)")
_TEXT_GROUP = re.compile(r"\\text\{([^{}]*)\}")
_SINGLE = re.compile(r"(?<!\\)\{((?:[A-Za-z0-9]|\\[A-Za-z]+)+)\}")


def closing_brace(text: str, opening: int) -> int | None:
    """Where the brace that opens at `opening` closes; escaped braces do not count. None: nowhere."""
    depth, position = 0, opening
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def _system(match: re.Match[str]) -> str:
    """A system of equations as a list; what has columns is none."""
    rows = match[2].replace("\\left", "").strip()
    if "&" in rows or "," in rows or "=" not in rows:
        return match.group()
    return ", ".join(row.strip() for row in rows.split("\\\\") if row.strip())


def _same_command(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in _DROPPED_COMMANDS:
        return " "
    if name in _WORD_FONTS:
        return "\\text"
    same = _SAME_COMMANDS.get(name)
    if same is None:
        return match.group() if name not in _FONTS else f"\\{name}"
    if not same or same[0] in "<>()[]%^\\":
        return same + (" " if same else "")
    return f"\\{same}" + ("" if same in "{}" else match.group()[1 + len(name) :] or " ")


def _without_fonts(text: str) -> str:
    r"""Font commands go and their argument stays; so does `\text` around what is no word."""
    pieces: list[str] = []
    position = 0
    num_commands = 0
    for match in _FONT_COMMAND.finditer(text):
        if match.start() < position:
            continue
        num_commands += 1
        end = closing_brace(text, match.end() - 1) if num_commands <= 50 else None
        if end is None:
            continue
        inside = text[match.end() : end]
        if match.group(1) == "text" and re.search(r"[A-Za-z]{2}|[^\W\d_]", inside) and not _is_symbol(inside):
            continue
        pieces.append(text[position : match.start()] + " " + inside + " ")
        position = end + 1
    return "".join(pieces) + text[position:]


_FONT_COMMAND = re.compile(rf"\\({'|'.join(sorted([*_FONTS, 'text'], key=len, reverse=True))})\s*\{{")


def _is_symbol(inside: str) -> bool:
    r"""A letter that `\mathrm` only sets upright: the numbers e and i, a choice in brackets."""
    return inside.strip() in ("e", "i", "d") or re.fullmatch(r"\s*\(?[A-Z]\)?[.:]?\s*", inside) is not None


def _without_delimiters(text: str) -> str:
    for opening, closing in _DELIMITERS:
        if len(text) > len(opening) + len(closing) - 1 and text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside and closing not in inside:
                text = inside.strip()
    return text


def _without_outer_braces(text: str) -> str:
    text = text.strip()
    num_pairs = 0
    while text[num_pairs : num_pairs + 1] == "{":
        num_pairs += 1
    for _ in range(num_pairs):
        if closing_brace(text, 0) != len(text) - 1:
            break
        text = text[1:-1].strip()
        if not text.startswith("{"):
            break
    return text

r"""What an answer is made of: one value, a list, a set, a tuple, an interval, a union, a matrix, an equation.

Owns: taking the text apart at its outermost level. Does not own: inequalities (`regions`), or whether two
values are equal (`rules.equality`).

Invariant: parts are texts, in the order written, repeated ones included.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = frozenset(_OPENING.values())
_MAX_DEPTH = 200
AND_OR = re.compile(r"\\text\s*\{\s*,?\s*(and|or)\s*\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])|[;,]?\s*(或|和|与|及)\s*")
_WHOLE = {"(": (")", "tuple"), "[": ("]", "square"), "\\{": ("\\}", "set")}
_MATRIX = re.compile(r"^\(?\s*\\begin\{([pbv]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*\)?$", re.DOTALL)
_SCALED_MATRIX = re.compile(
    r"^([^&,;=<>]{1,60}?)\s*(?:\\cdot|\\times|\*)?\s*(\(?\s*\\begin\{(?:[pb]?matrix|array)\}.*)$", re.DOTALL
)
_TRANSPOSED = re.compile(r"^(.*\\end\{[pb]?matrix\}\s*\)?)\s*\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?$", re.DOTALL)
NAME = r"(?:[A-Za-z]|\\(?!in(?![A-Za-z]))[A-Za-z]+)(?:_(?:\{[^{}]{0,12}\}|[A-Za-z0-9]))?'*"
_MEMBER = re.compile(rf"^\s*{NAME}\s*\\in(?![A-Za-z])\s*(.+)$", re.DOTALL)
_NAMED = re.compile(
    rf"^\s*(?:\\frac\s*\{{\s*(?:d|\\partial)[^{{}}]*\}}\s*\{{\s*(?:d|\\partial)[^{{}}]*\}}|(?:{NAME})(?:\s*\(\s*[A-Za-z]\w*\s*(?:,\s*[A-Za-z]\w*\s*)*\))?|\(\s*[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)+\s*\)"
    r"|\\text\s*\{[^{}]*\}|[A-Za-z][A-Za-z ]{2,40})\s*$"
)
_ALL_BUT = re.compile(r"^\\mathbb\s*\{?\s*R\s*\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},]+)\\\}$")
BUILT = re.compile(r"\\mid(?![A-Za-z])|(?<=[\w} ]):|\|")
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\equiv(?![A-Za-z])")
_MODULUS = re.compile(r"\\pmod\s*(?:\{[^{}]*\}|\d+)|\(\s*(?:\\mod|\\bmod|mod)\s+[^()]*\)|\\(?:mod|bmod)\s*\d+\s*$")
_REALS = re.compile(
    r"^(?:\\mathbb\s*\{?\s*R\s*\}?|\\text\s*\{\s*(?:all real numbers|R)\s*\}|all real numbers|\\R|\\Reals)$"
)
_HALF_LINE = re.compile(
    r"^\\mathbb\s*\{?\s*R\s*\}?\s*([_^])\s*(\{[^{}]{1,12}\}|[-+*]|\\(?:ast|times|cdot)(?![A-Za-z]))$"
)
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|\+/-|\+-")
_TURNED_BRACKETS = re.compile(r"^([\[\]])([^\[\]]*[,;][^\[\]]*)([\[\]])$")
_MAX_PARTS = 400


@dataclass(frozen=True, slots=True)
class Shape:
    r"""An answer's outermost level.

    `kind`: `value` (one part), `list` (nothing around it), `set`, `tuple`, `square`, `half` (one round and one square
    bracket), `union`, `matrix`. `brackets` are the outer ones; `rows` counts a matrix's.

    Example: `[1, 2)` is `Shape("half", ("1", "2"), "[)")`.
    """

    kind: str
    parts: tuple[str, ...]
    brackets: str = ""
    rows: int = 0


def shape_of(text: str) -> Shape:
    """The outermost level of an answer that `latex.plain_latex` has been over."""
    text = text.strip()
    member = _MEMBER.match(text)
    if member is not None:
        text = member[1].strip()
    turned = _TURNED_BRACKETS.match(text)
    if turned is not None:  # ]0, 1[ is open
        text = ("[" if turned[1] == "[" else "(") + turned[2] + ("]" if turned[3] == "]" else ")")
    if _REALS.match(text) or (member is not None and text == "R"):
        return Shape("tuple", ("-\\infty", "\\infty"), "()")
    half_line = _HALF_LINE.match(text)
    if half_line is not None:
        return _half_line(re.sub(r"[{}\s]", "", half_line[1] + half_line[2]))
    all_but = _ALL_BUT.match(text)
    if all_but is not None:
        return without_points([all_but[1].strip()])
    union = split_outside(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(union) > 1:
        return Shape("union", tuple(union))
    matrix = _MATRIX.match(text)
    if matrix is not None:
        rows = [row for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        cells = tuple(cell.strip() for row in rows for cell in row.split("&"))
        return Shape("matrix", cells, matrix[1], len(rows))
    changed = _changed_matrix(text) if "\\begin" in text else None
    if changed is not None:
        return changed
    items = list_items(text)
    if len(items) != 1:
        return Shape("list", tuple(items))
    return _bracketed(items[0]) or Shape("value", (items[0],))


def without_points(points: list[str]) -> Shape:
    """The real line but for points, which are in ascending order."""
    ends = ["-\\infty", *points, "\\infty"]
    return Shape("union", tuple(f"({lower}, {upper})" for lower, upper in itertools.pairwise(ends)))


def list_items(text: str) -> list[str]:
    r"""The items of a list without brackets: at commas, semicolons, `and`, `or`; `\pm` makes two of one."""
    text = AND_OR.sub(" ; ", text) if AND_OR.search(text) else text
    items = [item for item in split_outside(text, re.compile("[,;]")) if item.strip()]
    return [signed for item in items for signed in plus_minus(item)]


def plus_minus(text: str) -> list[str]:
    r"""`2 \pm a` as `2 + a` and `2 - a`; upper signs belong together."""
    if not _PLUS_MINUS.search(text):
        return [text.strip()]
    upper = _PLUS_MINUS.sub(lambda match: "-" if match.group() == "\\mp" else "+", text).strip()
    lower = _PLUS_MINUS.sub(lambda match: "+" if match.group() == "\\mp" else "-", text).strip()
    equals = upper.rfind("=")
    upper = upper[: equals + 1] + upper[equals + 1 :].strip().removeprefix("+")
    return [upper, lower]


def equation_sides(text: str) -> list[str]:
    r"""What stands between the outermost `=` (and `\equiv`) signs; one side where there is none."""
    if "=" not in text and "\\equiv" not in text:
        return [text]
    return [side.strip() for side in split_outside(_MODULUS.sub("", text) if "\\equiv" in text else text, _EQUALS)]


def is_name(text: str) -> bool:
    """Whether the side of an equation only names what the other side is: `x`, `f(x)`, `(x, y)`, `Area`."""
    return _NAMED.match(text) is not None


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """The text split at matches outside all brackets and environments; the whole text if brackets do not pair."""
    pieces, start, depth, environments, position = [], 0, 0, 0, 0
    while position < len(text):
        character = text[position]
        match = separator.match(text, position) if depth == environments == 0 else None
        if match is not None and match.end() > position:
            pieces.append(text[start : match.start()])
            position = start = match.end()
            if len(pieces) > _MAX_PARTS:
                return [text]
            continue
        if character == "\\":
            environments += text.startswith("\\begin{", position) - text.startswith("\\end{", position)
            if text[position + 1 : position + 2] not in ("{", "}"):
                position += 1 if text.startswith("\\\\", position) else 0
                position += 1
                continue
            position += 1
            character = text[position]
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth < 0 or depth > _MAX_DEPTH:
                return [text]
        position += 1
    return [*pieces, text[start:]] if depth == 0 else [text]


def _bracketed(text: str) -> Shape | None:
    for opening, (closing, kind) in _WHOLE.items():
        if not text.startswith(opening):
            continue
        ends = closing if text.endswith(closing) else None
        if ends is None and kind in ("tuple", "square") and text[-1:] in ")]" and opening in "([":
            ends, kind = text[-1], "half"  # noqa: PLW2901
        if ends is None or len(text) < len(opening) + len(ends):
            continue
        inside = text[len(opening) : len(text) - len(ends)]
        if not _is_balanced(inside):
            return None
        items = [item.strip() for item in split_outside(inside, re.compile("[,;]")) if item.strip()]
        if kind == "set" and len(items) == 1 and len(split_outside(inside, BUILT)) > 1:
            return None
        if kind == "set":
            items = [signed for item in items for signed in plus_minus(item)]
        elif len(items) < 2:
            return None
        return Shape(kind, tuple(items), "()" if kind == "tuple" else "{}" if kind == "set" else opening + ends)
    return None


def _changed_matrix(text: str) -> Shape | None:
    """A number times a matrix, or a transposed one, as the matrix that it is; None where the text is neither."""
    scaled, transposed = _SCALED_MATRIX.match(text), _TRANSPOSED.match(text)
    shape = shape_of((scaled or transposed)[2 if scaled else 1]) if scaled or transposed else None  # type: ignore[index]
    if shape is None or shape.kind != "matrix" or shape.brackets == "vmatrix":
        return None
    if scaled is not None:
        scalar = scaled[1].strip()
        factor = scalar if scalar in "+-" else f"({scalar}) \\cdot "
        return Shape("matrix", tuple(f"{factor}({cell})" for cell in shape.parts), shape.brackets, shape.rows)
    width = len(shape.parts) // shape.rows
    cells = tuple(shape.parts[row * width + column] for column in range(width) for row in range(shape.rows))
    return Shape("matrix", cells, shape.brackets, width)


def _half_line(mark: str) -> Shape:
    r"""`\mathbb{R}^+`, `\mathbb{R}_{\ge 0}` and their like, by what stands behind the letter."""
    if mark in ("^*", "_*", "^\\ast", "^\\times", "^\\cdot"):
        return without_points(["0"])
    if "-" in mark or "<" in mark or "\\le" in mark:
        ends, kind, brackets = ("-\\infty", "0"), "half", "(]"
    else:
        ends, kind, brackets = ("0", "\\infty"), "half", "[)"
    is_closed = "\\le" in mark or "\\ge" in mark
    return Shape(kind, ends, brackets) if is_closed else Shape("tuple", ends, "()")


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text.replace("\\{", "(").replace("\\}", ")"):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0

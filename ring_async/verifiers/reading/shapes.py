r"""What an answer is made of: one value, a list, a set, a tuple, an interval, a union, an inequality, an equation.

Owns: taking the text apart at its outermost level. Does not own: whether two values are equal (`rules.equality`).

Invariant: parts are texts, in the order written, repeated ones included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = frozenset(_OPENING.values())
_MAX_DEPTH = 200
_AND_OR = re.compile(r"\\text\s*\{\s*,?\s*(and|or)\s*\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])|[;,]?\s*(或|和|与|及)\s*")
_WHOLE = {"(": (")", "tuple"), "[": ("]", "square"), "\\{": ("\\}", "set")}
_MATRIX = re.compile(r"^\(?\s*\\begin\{([pbv]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*\)?$", re.DOTALL)
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>")
_NAME = r"(?:[A-Za-z]|\\(?!in(?![A-Za-z]))[A-Za-z]+)(?:_(?:\{[^{}]{0,12}\}|[A-Za-z0-9]))?'*"
_VARIABLE = re.compile(rf"^\s*(?:{_NAME})\s*$")
_MEMBER = re.compile(rf"^\s*{_NAME}\s*\\in(?![A-Za-z])\s*(.+)$", re.DOTALL)
_NAMED = re.compile(
    rf"^\s*(?:\\frac\s*\{{\s*(?:d|\\partial)[^{{}}]*\}}\s*\{{\s*(?:d|\\partial)[^{{}}]*\}}|(?:{_NAME})(?:\s*\(\s*[A-Za-z]\w*\s*(?:,\s*[A-Za-z]\w*\s*)*\))?|\(\s*[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)+\s*\)"
    r"|\\text\s*\{[^{}]*\}|[A-Za-z][A-Za-z ]{2,40})\s*$"
)
_ABSOLUTE = re.compile(rf"^\s*\|\s*{_NAME}\s*\|\s*$")
_UNEQUAL = re.compile(r"\\ne(?![A-Za-z])")
_ALL_BUT = re.compile(r"^\\mathbb\s*\{?\s*R\s*\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},]+)\\\}$")
_BUILT = re.compile(r"\\mid(?![A-Za-z])|(?<=[\w} ]):|\|")
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\equiv(?![A-Za-z])")
_MODULUS = re.compile(r"\\pmod\s*(?:\{[^{}]*\}|\d+)|\(\s*(?:\\mod|\\bmod|mod)\s+[^()]*\)|\\(?:mod|bmod)\s*\d+\s*$")
_REALS = re.compile(
    r"^(?:\\mathbb\s*\{?\s*R\s*\}?|\\text\s*\{\s*(?:all real numbers|R)\s*\}|all real numbers|\\R|\\Reals)$"
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
    if _REALS.match(text):
        return Shape("tuple", ("-\\infty", "\\infty"), "()")
    all_but = _ALL_BUT.match(text)
    if all_but is not None:
        return _without_point(all_but[1].strip())
    union = split_outside(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(union) > 1:
        return Shape("union", tuple(union))
    matrix = _MATRIX.match(text)
    if matrix is not None:
        rows = [row for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        cells = tuple(cell.strip() for row in rows for cell in row.split("&"))
        return Shape("matrix", cells, matrix[1], len(rows))
    items = list_items(text)
    if len(items) != 1:
        return Shape("list", tuple(items))
    return _bracketed(items[0]) or Shape("value", (items[0],))


def list_items(text: str) -> list[str]:
    r"""The items of a list without brackets: at commas, semicolons, `and`, `or`; `\pm` makes two of one."""
    text = _AND_OR.sub(" ; ", text) if _AND_OR.search(text) else text
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


def interval_of(text: str) -> Shape | None:
    r"""The set that an inequality in one variable describes: `0 < x \le 2` is `(0, 2]`. None: it is none."""
    unequal = _UNEQUAL.split(text)
    if len(unequal) == 2 and unequal[1].strip() and _VARIABLE.match(unequal[0]):
        return _without_point(unequal[1].strip())
    relations = _RELATION.findall(text)
    if not 1 <= len(relations) <= 2:
        return None
    parts = [part.strip() for part in _RELATION.split(text)]
    if not all(parts):
        return None
    if len(parts) == 3:
        upward = all(relation in ("<", "\\le") for relation in relations)
        if not _VARIABLE.match(parts[1]) or not (upward or all(relation in (">", "\\ge") for relation in relations)):
            return None
        ends, signs = ((parts[0], parts[2]), relations) if upward else ((parts[2], parts[0]), relations[::-1])
        return _interval(ends, (signs[0] in ("\\le", "\\ge"), signs[1] in ("\\le", "\\ge")))
    left, right = parts
    (relation,) = relations
    is_closed = relation in ("\\le", "\\ge")
    size = _ABSOLUTE.match(left)
    if size is not None and relation in ("<", "\\le"):
        return _interval((f"-({right})", right), (is_closed, is_closed))
    if size is not None:
        outer = (
            _interval(("-\\infty", f"-({right})"), (False, is_closed)),
            _interval((right, "\\infty"), (is_closed, False)),
        )
        return Shape("union", tuple(map(_written, outer)))
    if not _VARIABLE.match(left):
        if not _VARIABLE.match(right):
            return None
        left, right = right, left
        relation = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[relation]
    if relation in ("<", "\\le"):
        return _interval(("-\\infty", right), (False, is_closed))
    return _interval((right, "\\infty"), (is_closed, False))


def region_of(text: str) -> Shape | None:
    r"""The set of one or more inequalities: `x < 1 \text{ or } x > 3` is a union, `x > 1, x < 3` an interval."""
    built = re.match(r"^\\\{(.*)\\\}$", text.strip(), re.DOTALL)
    if built is not None:
        halves = split_outside(built[1], _BUILT)
        text = halves[1] if len(halves) == 2 else text
    items = split_outside(_AND_OR.sub(" ; ", text), re.compile(r"[,;]|\\wedge|\\vee|\\cup"))
    regions = [interval_of(item) for item in items if item.strip()]
    found = [region for region in regions if region is not None]
    if not found or len(found) != len(regions):
        return None
    if len(found) == 1:
        return found[0]
    if any(region.kind == "union" for region in found):
        return None
    if len(found) == 2 and not re.search(r"or|或|\\vee|\\cup", text):
        lower = [region for region in found if region.parts[1] == "\\infty"]
        upper = [region for region in found if region.parts[0] == "-\\infty"]
        if len(lower) == len(upper) == 1:
            ends = (lower[0].parts[0], upper[0].parts[1])
            return _interval(ends, (lower[0].brackets[0] == "[", upper[0].brackets[1] == "]"))
    return Shape("union", tuple(_written(region) for region in found))


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
        if kind == "set" and len(items) == 1 and len(split_outside(inside, _BUILT)) > 1:
            return None
        if kind == "set":
            items = [signed for item in items for signed in plus_minus(item)]
        elif len(items) < 2:
            return None
        return Shape(kind, tuple(items), "()" if kind == "tuple" else "{}" if kind == "set" else opening + ends)
    return None


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text.replace("\\{", "(").replace("\\}", ")"):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _without_point(point: str) -> Shape:
    return Shape("union", (f"(-\\infty, {point})", f"({point}, \\infty)"))


def _interval(ends: tuple[str, str], is_closed: tuple[bool, bool]) -> Shape:
    brackets = ("[" if is_closed[0] else "(") + ("]" if is_closed[1] else ")")
    return Shape({"()": "tuple", "[]": "square"}.get(brackets, "half"), ends, brackets)


def _written(region: Shape) -> str:
    return f"{region.brackets[0]}{region.parts[0]}, {region.parts[1]}{region.brackets[1]}"

r"""Vectors written with unit vectors: `2\mathbf{i} - 3\hat{j}` is `(2, -3)`.

Owns: telling unit vectors from the imaginary unit (they are bold or wear a hat), and their coordinates. Does not own:
comparing vectors (`rules.equality`).
"""

from __future__ import annotations

import re

from ring_async.verifiers.reading.shapes import split_outside

_UNIT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|hat|vec|widehat|overrightarrow)\s*\{\s*(?:\\(?:mathbf|hat|vec)\s*\{?\s*)?\\?([ijk])(?:math)?\s*\}{1,2}"
    r"|\\(?:hat|vec)\s*\\?([ijk])(?:math)?(?![A-Za-z])"
)
_MAX_CHARACTERS = 400


def coordinates(text: str) -> str:
    r"""The text, or the vector that it is a sum of unit vectors for, as a tuple in LaTeX."""
    if len(text) > _MAX_CHARACTERS or not _UNIT.search(text):
        return text
    name, equals, body = text.rpartition("=")
    body = body.strip().strip("$").strip()
    marked = _UNIT.sub(lambda match: f" !{match[1] or match[2]} ", body)
    found = dict.fromkeys("ijk", "0")
    for term in split_outside(re.sub(r"\s*([+-])\s*", r"&\1", marked.lstrip("+ ")), re.compile("&")):
        if not term.strip():
            continue
        factor, unit = term.strip()[:-2].strip(), term.strip()[-2:]
        if unit[:1] != "!" or unit[1] not in found or "!" in factor or found[unit[1]] != "0":
            return text
        found[unit[1]] = f"{factor}1" if factor in ("", "+", "-") else factor.rstrip("*").strip()
    dimensions = "ijk" if "!k" in marked else "ij"
    return f"{name}{equals}({', '.join(found[letter] for letter in dimensions)})"

"""Refuse what makes a house hard to live in: circles of imports between files, and files or functions too long to read.

Run by `make check`. Imports for type checkers alone count too: a reader follows them like any other.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

PACKAGE = "ring_async"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
REASON = "# long: "
"""Behind a `def`, with a reason: this function may be longer."""


def circle(package: str = PACKAGE) -> list[str]:
    """Modules of a package that import each other in a circle, the first one again at the end; empty: there is none."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def long_parts(path: Path) -> Iterator[str]:
    """What in one file is too long, a line each."""
    text = path.read_text()
    lines = text.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{path}: {len(lines)} lines; {MAX_FILE_LINES} at most. What second thing lives in it?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES and REASON not in lines[node.lineno - 1]:
                yield (
                    f"{path}:{node.lineno}: {node.name} has {num_lines} lines; {MAX_FUNCTION_LINES} at most, "
                    f"or a reason behind the def: {REASON}…"
                )


def main() -> int:
    problems = [problem for path in sorted(Path(PACKAGE).rglob("*.py")) for problem in long_parts(path)]
    if found := circle():
        problems.append("a circle of imports: " + " → ".join(found))
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201 - this is a command
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

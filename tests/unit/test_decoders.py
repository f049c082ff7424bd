"""msgspec resolves a struct's types when a decoder first needs them, and crashes when two threads do so at once.

Seen with 0.22.0: receivers of weights that got their first offer together took the process with them. Imports happen
one at a time, so decoders are made there.
"""

import ast
from pathlib import Path

import ring_async

PACKAGE = Path(ring_async.__file__).parent


def resolved_late(tree: ast.AST) -> list[int]:
    """Lines in functions that make a decoder, or decode or convert to a type without one."""
    lines = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for call in (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        is_typed = any(keyword.arg == "type" for keyword in call.keywords)
        if name.startswith("msgspec.") and (name.endswith((".Decoder", ".convert")) or is_typed):
            lines.append(call.lineno)
    return lines


def test_types_are_resolved_at_import():
    paths = sorted(PACKAGE.rglob("*.py"))
    late = {str(path.relative_to(PACKAGE)): resolved_late(ast.parse(path.read_text())) for path in paths}
    assert not {path: lines for path, lines in late.items() if lines}


def test_a_late_one_is_found():
    late = """
def read(data):
    a = msgspec.msgpack.Decoder(WeightsLayout)
    b = msgspec.json.decode(data, type=WeightsLayout)
    return msgspec.convert(data, WeightsLayout)
"""
    assert resolved_late(ast.parse(late)) == [3, 4, 5]

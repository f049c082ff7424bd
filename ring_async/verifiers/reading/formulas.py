"""Whether two formulas with variables are the same, without algebra: by their form, and by their values at points.

Owns: those two questions. Does not own: values (`arithmetic`), or proof: what they do not settle is the engine's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction

from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, Value, has_same_value
from ring_async.verifiers.reading.expression import Node

_CONSTANTS = frozenset({"pi", "e", "i", "imath"})


def canonical(node: Node) -> Node:
    """The tree with the operands of sums and products in one order, differences and quotients included."""
    if node.kind in ("+", "-", "*", "/"):
        operands = sorted(_operands(node, node.kind in "+-", is_inverse=False), key=repr)
        return Node("sum" if node.kind in "+-" else "product", tuple(operands))
    if node.kind == "group":
        return canonical(node.parts[0])
    return Node(node.kind, tuple(canonical(part) for part in node.parts), node.value, node.text)


def _operands(node: Node, is_sum: bool, *, is_inverse: bool) -> list[Node]:
    kinds = ("+", "-") if is_sum else ("*", "/")
    if node.kind == "group":
        return _operands(node.parts[0], is_sum, is_inverse=is_inverse)
    if is_sum and node.kind == "negative":
        return _operands(node.parts[0], is_sum, is_inverse=not is_inverse)
    if node.kind not in kinds:
        plain = canonical(node)
        return [Node("inverse", (plain,)) if is_inverse else plain]
    left, right = node.parts
    is_turned = is_inverse != (node.kind == kinds[1])
    return _operands(left, is_sum, is_inverse=is_inverse) + _operands(right, is_sum, is_inverse=is_turned)


def names_in(node: Node) -> frozenset[str]:
    """The names that a tree holds, constants included."""
    if node.kind == "name":
        return frozenset({node.text})
    return frozenset().union(*map(names_in, node.parts))


def agree_at_points(left: Node, right: Node) -> bool | None:
    """Whether two formulas in variables have the same values at points drawn once and for all.

    Returns:
        False where they differ at a point with positive coordinates: then they are different functions. True where they
        agree at all points, negative ones included. None where that does not settle it: they agree at positive points
        alone, or have no value at enough of them.
    """
    names = sorted(names_in(left) | names_in(right))
    positive = [_agrees(left, right, _point(names, seed, is_mixed=False)) for seed in range(3)]
    if False in positive:
        return False
    if positive.count(True) < 2:
        return None
    mixed = [_agrees(left, right, _point(names, seed, is_mixed=True)) for seed in range(3, 7)]
    return True if mixed.count(True) == len(mixed) else None


def _agrees(left: Node, right: Node, point: Mapping[str, Value]) -> bool | None:
    is_complex = "i" in names_in(left) | names_in(right)
    try:
        return has_same_value(_at(left, point), _at(right, point), is_real=not is_complex)
    except (NotClosedError, TooLargeError, ValueError, TypeError, ArithmeticError):
        return None


def _point(names: list[str], seed: int, *, is_mixed: bool) -> dict[str, Fraction]:
    draw = random.Random(seed)
    return {
        name: Fraction(draw.randrange(3000, 7000), 997) * (draw.choice((1, -1)) if is_mixed else 1)
        for name in names
        if name not in _CONSTANTS
    }


def _at(node: Node, point: Mapping[str, Value]) -> Node:
    """The tree with values for its variables."""
    if node.kind == "name" and node.text in point:
        return Node("number", value=point[node.text])
    return (
        Node(node.kind, tuple(_at(part, point) for part in node.parts), node.value, node.text) if node.parts else node
    )

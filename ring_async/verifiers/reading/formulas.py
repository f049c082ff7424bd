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


def differ_by_constant(gold: Node, answer: Node) -> bool | None:
    r"""Whether two antiderivatives, `x^2 + C` and `C - (1 - x^2)`, are the same family of functions.

    The reference's constant is `C`, the answer's may be `c`, `K` or `k`; both stand alone in a sum.

    Returns:
        None where one of them has no such constant, or points do not settle it.
    """
    letters = names_in(gold) - _CONSTANTS
    letter = next((name for name in "CcKk" if _is_added(name, answer)), None)
    if (
        letter is None
        or not _is_added("C", gold)
        or len(letters) < 2
        or any(name.isupper() for name in letters - {"C"})
    ):
        return None
    one, other = with_values(gold, {"C": Fraction(0)}), with_values(answer, {letter: Fraction(0)})
    names = sorted(names_in(one) | names_in(other))
    points = [_point(names, seed, is_mixed=seed > 2) for seed in range(7)]
    agreed = [
        _agrees(
            Node("+", (with_values(one, points[0]), with_values(other, point))),
            Node("+", (with_values(one, point), with_values(other, points[0]))),
            {},
        )
        for point in points[1:]
    ]
    return False if False in agreed else True if all(agreed) else None


def _is_added(name: str, tree: Node) -> bool:
    """Whether a name stands once in the tree, as a term of its outermost sum."""
    terms = _operands(tree, True, is_inverse=False)
    return (
        sum(term in (Node("name", text=name),) for term in terms) == 1 and sum(name in names_in(t) for t in terms) == 1
    )


def with_values(node: Node, values: Mapping[str, Value]) -> Node:
    """The tree with numbers for its variables, as far as they have one."""
    if node.kind == "name" and node.text in values:
        return Node("number", value=values[node.text])
    return (
        Node(node.kind, tuple(with_values(part, values) for part in node.parts), node.value, node.text)
        if node.parts
        else node
    )


def _agrees(left: Node, right: Node, point: Mapping[str, Value]) -> bool | None:
    is_complex = "i" in names_in(left) | names_in(right)
    try:
        return has_same_value(with_values(left, point), with_values(right, point), is_real=not is_complex)
    except (NotClosedError, TooLargeError, ValueError, TypeError, ArithmeticError):
        return None


def _point(names: list[str], seed: int, *, is_mixed: bool) -> dict[str, Fraction]:
    draw = random.Random(seed)
    return {
        name: Fraction(draw.randrange(3000, 7000), 997) * (draw.choice((1, -1)) if is_mixed else 1)
        for name in names
        if name not in _CONSTANTS
    }

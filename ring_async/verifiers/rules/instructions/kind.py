"""What a kind of instruction is, and how arguments are drawn.

Owns: `Kind`. Does not own: any kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
Draw = Callable[[random.Random], dict[str, Any]]
WORDS = (
    *("river", "garden", "winter", "music", "bridge", "window", "market", "story", "forest", "teacher"),
    *("silver", "engine", "island", "letter", "morning", "paper", "summer", "travel", "village", "weather"),
    *("candle", "harbor", "kitchen", "library", "mountain", "ocean", "picture", "question", "shadow", "thunder"),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of instruction.

    Attributes:
        identifier: as in its data set.
        check: whether a response follows it.
        draw: its arguments, at random.
        word: the instruction in English.
        claims: aspects of a response it settles; two kinds that claim the same one can contradict each other.
    """

    identifier: str
    check: Check
    draw: Draw
    word: Callable[[Arguments], str]
    claims: frozenset[str]


def kind(identifier: str, check: Check, draw: Draw, word: Callable[[Arguments], str], *claims: str) -> Kind:
    return Kind(identifier, check, draw, word, frozenset(claims) | {identifier})


def by_identifier(*kinds: Kind) -> Mapping[str, Kind]:
    return {kind.identifier: kind for kind in kinds}


def compare(count: int, relation: str, bound: int) -> bool:
    """`Raises: ValueError` for a relation that IFEval does not know."""
    if relation == "at least":
        return count >= bound
    if relation == "less than":
        return count < bound
    raise ValueError(f"relation {relation!r} is neither 'at least' nor 'less than'")


def between(low: int, high: int, name: str) -> Draw:
    return lambda rng: {name: rng.randint(low, high)}


def related(name: str, low: int, high: int, relation: str = "relation") -> Draw:
    return lambda rng: {relation: rng.choice(("at least", "less than")), name: rng.randint(low, high)}


def one_word(name: str) -> Draw:
    return lambda rng: {name: rng.choice(WORDS)}


def nothing(_rng: random.Random) -> dict[str, Any]:
    return {}

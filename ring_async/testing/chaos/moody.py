"""A verifier that hangs, crashes or lies for as long as a fault says so; at other times it is honest.

Owns: the mood, one for the whole process, since a verifier is made by name where nobody could hand it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response

MOODY = f"{__name__}:Moody"
"""As configurations name it."""
LIES: tuple[Any, ...] = (math.nan, math.inf, 1e30, "yes", None)
"""Rewards that no verdict may have."""
VERDICT_S = 0.02


class Mood(StrEnum):
    """How the verifier answers."""

    HONEST = "honest"
    HANGS = "hangs"
    CRASHES = "crashes"
    LIES = "lies"


_in_force: dict[str, Mood] = {}


@contextlib.contextmanager
def in_mood(name: str, mood: Mood) -> Iterator[None]:
    """The verifier of this name has a mood meanwhile."""
    _in_force[name] = mood
    try:
        yield
    finally:
        del _in_force[name]


class Moody:
    """Reward 1 where the response's ids add up to an even number: about half of them."""

    def __init__(self, name: str = "exact") -> None:
        self.name = name
        self.version = "v1"

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Answer in the mood that is in force.

        Raises:
            RuntimeError: the mood is to crash.
        """
        del prompt
        total = sum(map(int, response.text.split()))
        match _in_force.get(self.name, Mood.HONEST):
            case Mood.CRASHES:
                raise RuntimeError("this verifier crashes")
            case Mood.HANGS:
                await asyncio.Event().wait()
            case Mood.LIES:
                return Verdict(LIES[total % len(LIES)])
        await asyncio.sleep(VERDICT_S)
        return Verdict(float(total % 2 == 0))

    def golden_cases(self) -> Sequence[GoldenCase]:
        return ()

    def close(self) -> None:
        """Nothing to release."""

"""Difficulty windows: a source issues only prompts whose difficulty lies in its window.

Owns: windows, the numbers that prompts carry, and the observed difficulties of prompts that come again. Does not own
cursors, or the search for a prompt within a window (`actors.controller.prompt_search`).
Invariant: whether a window admits a prompt follows from the prompt, its index and the observations so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from ring_async.types import Prompt

OBSERVED = "observed"
"""Difficulty as this run found it: 1 − mean reward of the prompt's last group. 0: always solved, 1: never."""
BELIEVED_ROUNDS = 3
"""Rounds of a source for which an observation is valid; then the prompt is issued again, since the policy has changed.
"""

MAX_OBSERVED = 100_000
"""Prompts of which an observation is kept, in memory and in the journal (90 bytes each); later ones stay unknown."""


class Window(msgspec.Struct, frozen=True):
    """The difficulties from `low` to `high`, both included; None: no bound. `by` names the number that counts as
    difficulty.
    """

    by: str = "difficulty"
    low: float | None = None
    high: float | None = None

    def admits(self, difficulty: float | None) -> bool:
        """Whether a prompt of this difficulty is issued. An unknown one is issued only if trying it makes it known."""
        if difficulty is None:
            return self.by == OBSERVED
        return (self.low is None or difficulty >= self.low) and (self.high is None or difficulty <= self.high)

    def __str__(self) -> str:
        low = "" if self.low is None else f"{self.low:g}"
        high = "" if self.high is None else f"{self.high:g}"
        return f"{self.by} {low}:{high}"


def carried_numbers(prompt: Prompt) -> dict[str, float]:
    """The numbers a prompt carries: columns of its row, or what reasoning-gym notes of an entry.

    reasoning-gym's own `difficulty` is a mapping, mostly of the task's settings; numbers in it count under their names,
    unless the entry itself has one of that name.
    """
    noted = prompt.metadata
    if isinstance(entry := noted.get("entry"), dict) and isinstance(entry.get("metadata"), dict):
        noted = entry["metadata"]
    nested = noted.get("difficulty")
    return (_numbers(nested) if isinstance(nested, dict) else {}) | _numbers(noted)


def carried(prompt: Prompt, by: str) -> float | None:
    """The number of this name that a prompt carries, or None."""
    return carried_numbers(prompt).get(by)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


class Observations:
    """The observed difficulties of prompts that come again: for each prompt, the index and difficulty of its last
    group.

    observations.note("rows/7", 7, 0.25)                             # True
    observations.difficulty("rows/7", 107, num_prompts=100)          # 0.25: one round later
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def note(self, prompt_id: str, index: int, difficulty: float) -> bool:
        """Store a prompt's difficulty, unless a later group of it was noted before. Returns whether it was stored."""
        seen = self._seen.get(prompt_id)
        if len(self._seen) >= MAX_OBSERVED if seen is None else index < seen[0]:
            return False
        self._seen[prompt_id] = (index, difficulty)
        return True

    def difficulty(self, prompt_id: str, index: int, num_prompts: int) -> float | None:
        """The observed difficulty of a prompt; None if it is unknown, or was observed too long ago.

        Args:
            prompt_id: of the prompt.
            index: the cursor under which it would be issued now.
            num_prompts: number of prompts of the source; one round over them issues each prompt once.
        """
        seen = self._seen.get(prompt_id)
        if seen is None or index // num_prompts - seen[0] // num_prompts > BELIEVED_ROUNDS:
            return None
        return seen[1]


def observed_difficulty(rewards: Iterable[float | None]) -> float | None:
    """The difficulty of a group: 1 − the mean of its rewards; None if a reward is missing."""
    known = list(rewards)
    if not known or None in known:
        return None
    return 1.0 - sum(reward for reward in known if reward is not None) / len(known)

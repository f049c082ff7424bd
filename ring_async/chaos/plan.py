"""The plan of a chaos run: which actors are struck, how, and in which phase of the run; all drawn from one seed.

Owns: the kinds of faults and phases, and their order. Does not own striking (`run`), nor what counts as recovered
(`recovery`).
Invariant: every combination comes once before any comes twice, so a long run covers all, and a short one a fair sample.

    injections(7, [Role.ROLLOUT, …]) → Injection(1, KILL, (LEARNER,), CHECKPOINT, 2.4), Injection(2, FREEZE, …), …
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ring_async.core.roster import Role

LONGEST_PAUSE_S = 4.0


class Fault(StrEnum):
    """What is done to a process."""

    KILL = "kill -9"
    FREEZE = "stopped"
    """SIGSTOP until the fleet has replaced it, then SIGCONT: the old process wakes up beside its successor."""


class Phase(StrEnum):
    """What the run does while it is struck."""

    WORK = "at work"
    SWAP = "in a swap of a verifier"
    CHECKPOINT = "while a checkpoint is written"
    RESTART = "while its successor starts"


@dataclass(frozen=True, slots=True)
class Injection:
    """One strike.

    Attributes:
        number: counts from 1.
        victims: one actor of each of these roles is struck, at once.
        pause_s: time between the recovery before and this one.
    """

    number: int
    fault: Fault
    victims: tuple[Role, ...]
    phase: Phase
    pause_s: float

    @property
    def kind(self) -> tuple[str, str, str]:
        """Fault, victims and phase, as the table groups them."""
        return self.fault.value, " + ".join(self.victims), self.phase.value


def injections(seed: int, roles: Sequence[Role]) -> Iterator[Injection]:
    """Strikes without end.

    Args:
        seed: the same seed and roles give the same strikes.
        roles: those of the fleet.
    """
    rng = random.Random(seed)
    kinds = [
        *((Fault.KILL, (role,), phase) for role in roles for phase in Phase),
        *((Fault.FREEZE, (role,), Phase.WORK) for role in roles),
        *((Fault.KILL, pair, Phase.WORK) for pair in itertools.combinations(roles, 2)),
    ]
    number = itertools.count(1)
    while True:
        for fault, victims, phase in rng.sample(kinds, len(kinds)):
            yield Injection(next(number), fault, victims, phase, rng.uniform(0.5, LONGEST_PAUSE_S))

"""The plan of chaos under the virtual clock: every kind of fault, and which of them strike a run of a given seed.

Owns: the kinds, and their order. Does not own how they are done (`faults`), nor a run's course (`course`).
Invariant: over consecutive seeds every kind comes once before any comes twice.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ring_async.chaos.plan import Phase
from ring_async.core.roster import Role

ROLES = (Role.CONTROLLER, Role.REPLAY, Role.REWARD, Role.ROLLOUT, Role.LEARNER)
NEIGHBOURS = ((Role.ROLLOUT, Role.REWARD), (Role.REWARD, Role.REPLAY), (Role.REPLAY, Role.LEARNER),
              *((Role.CONTROLLER, role) for role in ROLES[1:]))  # fmt: skip
"""The roles that talk to each other."""


class VirtualFault(StrEnum):
    """What is done."""

    KILL = "killed"
    TEAR = "killed, its last journal record half written"
    DAMAGE = "killed, its newest checkpoint damaged"
    CUT_OFF = "cut off from everybody"
    PART = "cut off from each other"
    DROP = "a tenth of all messages dropped"
    DUPLICATE = "a third of all messages doubled"
    REORDER = "a third of all messages overtaken"
    DELAY = "all messages late by up to 1 s"
    DISK = "no room on the disk"
    STALL = "the host stands still"
    FORWARD = "clock 1 h forward"
    BACK = "clock 1 h back"
    HANG = "hangs"
    CRASH = "crashes"
    LIE = "lies"


LINKS = (VirtualFault.DROP, VirtualFault.DUPLICATE, VirtualFault.REORDER, VirtualFault.DELAY)
HOST = (VirtualFault.DISK, VirtualFault.STALL, VirtualFault.FORWARD, VirtualFault.BACK)
VERIFIER = (VirtualFault.HANG, VirtualFault.CRASH, VirtualFault.LIE)
DEATHS = (VirtualFault.KILL, VirtualFault.TEAR, VirtualFault.DAMAGE)
BESIDES_RESTART = (Phase.WORK, Phase.SWAP, Phase.CHECKPOINT)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `victims`: the roles it is done to; none: all of the host, or a verifier."""

    fault: VirtualFault
    victims: tuple[Role, ...]
    phase: Phase

    @property
    def struck(self) -> str:
        """The victims, as the table names them."""
        if self.victims:
            return " + ".join(self.victims)
        return "verifier" if self.fault in VERIFIER else "all"


def kinds() -> list[Kind]:
    """All there are."""
    return [
        *(Kind(VirtualFault.KILL, (role,), phase) for role in ROLES for phase in Phase),
        *(Kind(VirtualFault.KILL, pair, Phase.WORK) for pair in itertools.combinations(ROLES, 2)),
        *(Kind(VirtualFault.TEAR, (Role.CONTROLLER,), phase) for phase in BESIDES_RESTART),
        Kind(VirtualFault.DAMAGE, (Role.LEARNER,), Phase.WORK),
        *(Kind(VirtualFault.CUT_OFF, (role,), phase) for role in ROLES for phase in BESIDES_RESTART),
        *(Kind(VirtualFault.PART, pair, Phase.WORK) for pair in NEIGHBOURS),
        *(Kind(fault, (), phase) for fault in (*LINKS, *HOST, *VERIFIER) for phase in BESIDES_RESTART),
    ]


def kinds_for(seed: int, number: int) -> Iterator[Kind]:
    """The faults that strike the run of a seed, in order.

    Args:
        seed: from 0; consecutive seeds take consecutive parts of one endless order.
        number: of faults a run.
    """
    every = kinds()
    for place in range(seed * number, (seed + 1) * number):
        turn, index = divmod(place, len(every))
        yield random.Random(turn).sample(every, len(every))[index]

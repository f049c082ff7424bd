"""Fair shares: how groups that may be granted are divided among the rollouts that ask.

Owns: that division. Does not own how many may be granted (`admission`), nor which groups (the controller's dispatcher).
Invariant: of two rollouts that want more, the one with fewer groups under way is given the next.
Source: max-min fairness over groups under way.
Rejected: first come, first served. The first rollout in line took all that a batch made room for, and of 8 engines 3.7
were without work.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping


def fair_share(num_open: int, num_grantable: int, num_rollouts: int) -> int:
    """The number of groups under way that each rollout may have before others are left short: an equal part, rounded
    up, of all groups under way and of those that may be granted.
    """
    return -(-(num_open + num_grantable) // max(1, num_rollouts))


def divide(num_groups: int, wanted: Mapping[str, int], held: Mapping[str, int]) -> list[str]:
    """Who is given each of `num_groups` groups, in the order of granting; fewer if no more are wanted.

    Args:
        num_groups: that may be granted.
        wanted: how many each rollout wants; among equals, the one named first is first.
        held: how many groups each has under way.
    """
    line = [(held[owner], place, owner) for place, (owner, number) in enumerate(wanted.items()) if number > 0]
    heapq.heapify(line)
    left = dict(wanted)
    given: list[str] = []
    while line and len(given) < num_groups:
        number, place, owner = line[0]
        given.append(owner)
        left[owner] -= 1
        if left[owner]:
            heapq.heapreplace(line, (number + 1, place, owner))
        else:
            heapq.heappop(line)
    return given

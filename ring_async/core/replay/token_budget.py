"""The choice of exactly Φ loss tokens for one batch.

Owns: the order of candidates, the choice, and the rule for cutting the response that crosses Φ. Does not own which
responses are eligible (`batch_planning`), nor where tokens lie (`packing`).
Invariants: a choice holds exactly Φ loss tokens, or nothing; at most one response is cut; with carry, a response is cut
only if its remainder can still be trained, and no remainder is passed over for a better sum of others.
Source: C3PO, arXiv 2506.14731 §3.2; docs/algorithm.md, "The loss".
Differs: Eq. 3 read literally keeps the boundary response whole; Fig. 3 and this code cut it by loss mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from ring_async.core.replay.held_group import HeldGroup

Order = Literal["oldest_version", "fifo", "random", "abs_advantage"]

MAX_FIT_TOKENS = 1 << 18
MAX_FIT_CANDIDATES = 1_024
"""Bounds on the search for responses that add up exactly: 32 MiB of bit sets and a fraction of a second at worst. So
many responses that do not fit are passed over, too, before only those that may be cut are looked at."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One trajectory that may be trained now.

    Attributes:
        group, index: where it is.
        num_loss_tokens: loss tokens not yet trained in this pass, > 0.
        can_split: whether it may be cut: its remainder could still be trained with the next batch, or may be dropped.
        is_remainder: whether an earlier batch cut it; remainders are chosen first.
        order: what its place in the order of choice follows from.
    """

    group: HeldGroup
    index: int
    source: str
    num_loss_tokens: int
    can_split: bool
    is_remainder: bool
    order: tuple[object, ...] = ()


class Eligible(Protocol):
    """All that one batch may take; the totals are at hand, and iterators yield in the order of choice, remainders
    first.
    """

    num: int
    num_rigid: int
    """Those that may not be cut."""
    tokens: int

    def in_order(self) -> Iterator[Candidate]: ...

    def splittable(self) -> Iterator[Candidate]:
        """Those that may be cut."""
        ...

    def rigid(self) -> Iterator[Candidate]:
        """Those that may not be cut."""
        ...


Taken = list[tuple[Candidate, int]]
"""Candidates with the number of loss tokens taken of each."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidates, with the number of loss tokens taken of each. The numbers add up to Φ."""

    taken: tuple[tuple[Candidate, int], ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why there is no batch yet, in words a person can act on."""

    reason: str


def choose_tokens(eligible: Eligible, token_budget: int, *, is_final: bool = False) -> Choice | Shortfall:
    """Choose exactly `token_budget` loss tokens: whole responses in order, the one that crosses the line cut.

    A response that may not be cut and does not fit whole is passed over. If the batch then stays short although there
    are enough tokens, another set of uncuttable responses is searched for, whose rest the cuttable ones can fill.
    `is_final` is a stage's declared end: the batch then takes all tokens if they are fewer than the budget.
    The cost follows from what is taken, and from what is passed over up to a bound, not from what there is.
    """
    available = eligible.tokens
    if available <= token_budget and (is_final or available == token_budget) and available > 0:
        return Choice(tuple((one, one.num_loss_tokens) for one in eligible.in_order()))
    if available < token_budget or available == 0:
        return Shortfall(f"{available:,} of {token_budget:,} eligible tokens")
    taken = _fill_in_order(eligible, token_budget) or _fit(eligible, token_budget)
    if taken is None:
        return Shortfall(
            f"{available:,} eligible tokens, but {eligible.num_rigid} of {eligible.num} responses are at "
            f"max_staleness, may not be split, and do not add up to {token_budget:,}; waiting for a fresher response"
        )
    return Choice(tuple(taken))


def _fill_in_order(eligible: Eligible, token_budget: int) -> Taken | None:
    """Fill the budget in the order of choice; None if it does not come out even."""
    taken: Taken = []
    missing = _fill(eligible.in_order(), token_budget, taken, max_passed_over=MAX_FIT_CANDIDATES)
    if missing:
        known = {(id(one.group), one.index) for one, _ in taken}
        rest = (one for one in eligible.splittable() if (id(one.group), one.index) not in known)
        missing = _fill(rest, missing, taken)
    return None if missing else taken


def _fill(ordered: Iterable[Candidate], missing: int, taken: Taken, *, max_passed_over: int = 0) -> int:
    """Add candidates to `taken` until nothing is missing; returns what then still is.

    Those that may not be cut and are too long are passed over; if they are more than `max_passed_over`, it ends there.
    """
    if not missing:
        return 0
    num_passed_over = 0
    for candidate in ordered:
        if candidate.num_loss_tokens <= missing:
            taken.append((candidate, candidate.num_loss_tokens))
            missing -= candidate.num_loss_tokens
        elif candidate.can_split:
            taken.append((candidate, missing))
            missing = 0
        else:
            num_passed_over += 1
        if missing == 0 or num_passed_over > max_passed_over:
            break
    return missing


def _fit(eligible: Eligible, token_budget: int) -> Taken | None:
    """Choose uncuttable responses whose tokens fill the budget as far as possible, and fill the rest with the others.

    Remainders come first, whatever sum the others could reach without them: one that is passed over now is too old for
    the next batch. Then responses are taken in order except near the end, where the best sum over a bounded number of
    them is found exactly.
    """
    taken: Taken = []
    missing = token_budget
    last: list[Candidate] = []
    for one in eligible.rigid():
        if one.is_remainder:
            is_due = one.num_loss_tokens <= missing
        else:
            is_due = not last and missing > MAX_FIT_TOKENS + one.num_loss_tokens
        if is_due:
            taken.append((one, one.num_loss_tokens))
            missing -= one.num_loss_tokens
        elif not one.is_remainder:
            last.append(one)
            if len(last) == MAX_FIT_CANDIDATES:
                break
    for place in largest_sum([one.num_loss_tokens for one in last], missing):
        taken.append((last[place], last[place].num_loss_tokens))
        missing -= last[place].num_loss_tokens
    return None if _fill(eligible.splittable(), missing, taken) else taken


def largest_sum(sizes: Sequence[int], limit: int) -> list[int]:
    """The indices of sizes whose sum is as large as possible but not above `limit`.

    Subset sum over bit sets: bit n of `reachable[k]` says that some of the first k sizes add up to n.
    """
    mask = (1 << (limit + 1)) - 1
    reachable = [1]
    for size in sizes:
        reachable.append((reachable[-1] | reachable[-1] << size) & mask)
        if reachable[-1] >> limit:
            break
    left = reachable[-1].bit_length() - 1
    chosen = []
    for place in range(len(reachable) - 2, -1, -1):
        if not reachable[place] >> left & 1:
            chosen.append(place)
            left -= sizes[place]
    return chosen[::-1]

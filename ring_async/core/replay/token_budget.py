"""The choice of exactly Φ loss tokens for one batch.

Owns: the order of candidates, the choice, and the rule for cutting the response that crosses Φ. Does not own which
responses are eligible (`batch_planning`), nor where tokens lie (`packing`).
Invariants: a choice holds exactly Φ loss tokens, or nothing; at most one response is cut; with carry, a response is cut
only if its remainder can still be trained, and no remainder is passed over for a better sum of others.
Source: C3PO, arXiv 2506.14731 §3.2; docs/algorithm.md, "The loss".
Differs: Eq. 3 read literally keeps the boundary response whole; Fig. 3 and this code cut it by loss mask.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

Order = Literal["oldest_version", "fifo", "random", "abs_advantage"]

MAX_FIT_TOKENS = 1 << 18
MAX_FIT_CANDIDATES = 1_024
"""Bounds on the search for responses that add up exactly: 32 MiB of bit sets and a fraction of a second at worst."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One trajectory that may be trained now.

    Attributes:
        num_loss_tokens: loss tokens not yet trained in this pass, > 0.
        can_split: whether it may be cut: its remainder could still be trained with the next batch, or may be dropped.
        is_remainder: whether an earlier batch cut it; remainders are chosen first.
        num_uses: how often all of its tokens were trained before.
        oldest_number: version number of its oldest token, in the surviving lineage.
        arrival: order in which its group was committed.
        abs_advantage: |advantage|.
    """

    group_id: str
    source: str
    num_loss_tokens: int
    can_split: bool
    is_remainder: bool
    num_uses: int
    oldest_number: int
    arrival: int
    abs_advantage: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidates, by index, with the number of loss tokens taken of each. The numbers add up to Φ."""

    taken: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why there is no batch yet, in words a person can act on."""

    reason: str


def order_candidates(
    candidates: Sequence[Candidate],
    order: Order,
    *,
    salt: int,
    shares: Mapping[str, float] | None = None,
) -> list[int]:
    """The candidates' indices in the order of choice: remainders first, then the least used, then by `order`.

    Ties are broken at random by group (a hash of `salt` and the group's id): breaking them by arrival would favour
    short responses, which finish first. With `shares`, sources are interleaved so that loss tokens of every prefix
    follow them.
    """
    salted = zlib.crc32(f"{salt}:".encode())
    ties = {g: zlib.crc32(g.encode(), salted) for g in dict.fromkeys([one.group_id for one in candidates])}

    def rank(candidate: Candidate) -> float:
        if order == "oldest_version":
            return candidate.oldest_number
        if order == "fifo":
            return candidate.arrival
        return -candidate.abs_advantage if order == "abs_advantage" else 0.0

    keys = [(not one.is_remainder, one.num_uses, rank(one), ties[one.group_id], i) for i, one in enumerate(candidates)]
    ordered = [key[-1] for key in sorted(keys)]
    return ordered if shares is None else _interleave(candidates, ordered, shares)


def choose_tokens(
    candidates: Sequence[Candidate], ordered: Sequence[int], token_budget: int, *, is_final: bool = False
) -> Choice | Shortfall:
    """Choose exactly `token_budget` loss tokens: whole responses in order, the one that crosses the line cut.

    A response that may not be cut and does not fit whole is passed over. If the batch then stays short although there
    are enough tokens, another set of uncuttable responses is searched for, whose rest the cuttable ones can fill.
    `is_final` is a stage's declared end: the batch then takes all tokens if they are fewer than the budget.
    """
    available = sum([candidates[i].num_loss_tokens for i in ordered])
    if available <= token_budget and (is_final or available == token_budget) and available > 0:
        return Choice(tuple((i, candidates[i].num_loss_tokens) for i in ordered))
    if available < token_budget or available == 0:
        return Shortfall(f"{available:,} of {token_budget:,} eligible tokens")
    taken = _fill(candidates, ordered, token_budget)
    if taken is None:
        taken = _fit(candidates, ordered, token_budget)
    if taken is None:
        rigid = sum(1 for i in ordered if not candidates[i].can_split)
        return Shortfall(
            f"{available:,} eligible tokens, but {rigid} of {len(ordered)} responses are at max_staleness, may not be "
            f"split, and do not add up to {token_budget:,}; waiting for a fresher response"
        )
    return Choice(tuple(taken))


def _fill(candidates: Sequence[Candidate], ordered: Sequence[int], token_budget: int) -> list[tuple[int, int]] | None:
    taken: list[tuple[int, int]] = []
    missing = token_budget
    for i in ordered:
        candidate = candidates[i]
        if candidate.num_loss_tokens <= missing:
            taken.append((i, candidate.num_loss_tokens))
            missing -= candidate.num_loss_tokens
        elif candidate.can_split:
            taken.append((i, missing))
            missing = 0
        if missing == 0:
            return taken
    return None


def _fit(candidates: Sequence[Candidate], ordered: Sequence[int], token_budget: int) -> list[tuple[int, int]] | None:
    """Choose uncuttable responses whose tokens fill the budget as far as possible, and fill the rest with the others.

    Remainders come first, whatever sum the others could reach without them: one that is passed over now is too old for
    the next batch. Then responses are taken in order except near the end, where the best sum over a bounded number of
    them is found exactly.
    """
    rigid = [i for i in ordered if not candidates[i].can_split]
    taken: list[int] = []
    missing = token_budget
    for i in [i for i in rigid if candidates[i].is_remainder]:
        if candidates[i].num_loss_tokens <= missing:
            taken.append(i)
            missing -= candidates[i].num_loss_tokens
    rigid = [i for i in rigid if not candidates[i].is_remainder]
    while rigid and missing > MAX_FIT_TOKENS + candidates[rigid[0]].num_loss_tokens:
        taken.append(rigid.pop(0))
        missing -= candidates[taken[-1]].num_loss_tokens
    rigid = rigid[:MAX_FIT_CANDIDATES]
    best = largest_sum([candidates[i].num_loss_tokens for i in rigid], missing)
    first = [*taken, *(rigid[place] for place in best)]
    return _fill(candidates, [*first, *(i for i in ordered if candidates[i].can_split)], token_budget)


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


def _interleave(candidates: Sequence[Candidate], ordered: Sequence[int], shares: Mapping[str, float]) -> list[int]:
    """Merge the sources' lists; the next candidate is always of the source furthest behind its share of tokens.

    Remainders of all sources come first. A source without candidates leaves its part to the others; a source without a
    share comes last.
    """
    queues: dict[str, list[int]] = {}
    given = dict.fromkeys([one.source for one in candidates], 0)
    merged = [i for i in ordered if candidates[i].is_remainder]
    for i in merged:
        given[candidates[i].source] += candidates[i].num_loss_tokens
    for i in reversed(ordered[len(merged) :]):
        queues.setdefault(candidates[i].source, []).append(i)
    while queues:
        source = min(
            queues, key=lambda s: (given[s] / shares[s] if shares.get(s, 0) > 0 else float("inf"), -shares.get(s, 0), s)
        )
        i = queues[source].pop()
        if not queues[source]:
            del queues[source]
        given[source] += candidates[i].num_loss_tokens
        merged.append(i)
    return merged

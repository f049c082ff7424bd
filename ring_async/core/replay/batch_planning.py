"""Batch planning: groups of all shards in, one logged plan of exactly Φ loss tokens out.

Owns: a plan's logged form. Does not own which trajectories may be taken and in which order (`candidates`), how many are
(`token_budget`), where their tokens lie (`packing`), nor what becomes of groups (`buffer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ring_async.batches import BatchPlan, PackedSequence, TokenInterval
from ring_async.columns import united
from ring_async.core.packing import lay_out
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.candidates import Candidates
from ring_async.core.replay.held_group import HeldGroup
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.replay.progress import count_loss_tokens, token_interval
from ring_async.core.replay.token_budget import Candidate, Shortfall, choose_tokens
from ring_async.core.staleness import Lineage
from ring_async.types import EpochRules, PolicyVersion, Segment

NO_RULES: Mapping[str, EpochRules] = {}

Taken = tuple[str, int, int]
"""Group id, index within the group, loss tokens taken."""


class PlannedBatch(msgspec.Struct, frozen=True):
    """A plan to be logged, and the number of loss tokens that it takes of each trajectory."""

    entry: PlanEntry
    taken: tuple[Taken, ...]


def plan_batch(
    held: Sequence[HeldGroups],
    rules: BufferRules,
    lineage: Lineage,
    plan_number: int,
    learner: PolicyVersion,
    *,
    is_final: bool = False,
    epoch_rules: Mapping[str, EpochRules] = NO_RULES,
) -> PlannedBatch | Shortfall:
    """Plan a batch of exactly Φ loss tokens from the groups of all shards, or say why there is none yet.

    What may be taken, see `Candidates`; the groups follow `epoch_rules` already.
    """
    salt = rules.seed + plan_number
    candidates = Candidates(held, rules, salt=salt, learner_number=learner.number)
    choice = choose_tokens(candidates, rules.token_budget, is_final=is_final)
    if isinstance(choice, Shortfall):
        if not candidates.num_unlike:
            return choice
        described = ", ".join(map(str, candidates.columns.values()))
        unlike = f"{candidates.num_unlike} responses have columns unlike the others' {described}"
        return Shortfall(f"{choice.reason}; {unlike}")
    sequences, logged = _sequences(choice.taken, rules, learner)
    headers = list({id(one.group): one.group.record.header for one, _ in choice.taken}.values())
    plan = BatchPlan(
        plan_number=plan_number,
        policy_version=learner,
        token_budget=rules.token_budget,
        num_rows=logged.num_rows,
        token_capacity=rules.token_capacity,
        num_ranks=rules.num_ranks,
        sequences=tuple(sequences),
        verifier_epoch=max([header.verifier.epoch if header.verifier else 0 for header in headers]),
        mixture_epoch=max([header.mixture_epoch for header in headers]),
        columns=united([header.columns for header in headers], f"plan {plan_number}") if candidates.columns else (),
        is_final=is_final,
    )
    entry = PlanEntry(
        plan=plan,
        max_staleness=rules.max_staleness,
        staleness_measure=rules.staleness_measure,
        max_reuse=rules.max_reuse,
        lineage=lineage,
        loss_tokens=tuple(logged.loss_tokens),
        segments=tuple(logged.segments),
        carries=rules.carries,
        scored_by=tuple(logged.scored_by),
        epoch_rules=dict(epoch_rules),
    )
    taken = tuple([(one.group.record.header.group_id, one.index, num_tokens) for one, num_tokens in choice.taken])
    return PlannedBatch(entry, taken)


class _Logged(msgspec.Struct):
    """The fields that the log keeps beside the plan, one entry for each sequence, and the number of rows."""

    num_rows: int
    loss_tokens: list[int]
    segments: list[tuple[Segment, ...]]
    scored_by: list[tuple[str, int]]


def _sequences(
    taken: Sequence[tuple[Candidate, int]], rules: BufferRules, learner: PolicyVersion
) -> tuple[list[PackedSequence], _Logged]:
    """Lay out the chosen responses in rows, and describe each sequence."""
    lengths = []
    for candidate, _ in taken:
        header = candidate.group.record.header
        lengths.append(header.num_prompt_tokens + header.trajectories[candidate.index].num_tokens)
    layout = lay_out(lengths, rules.token_capacity, rules.num_ranks)
    logged = _Logged(layout.num_rows, [], [], [])
    sequences = []
    last: HeldGroup | None = None
    for (candidate, num_tokens), row, offset in zip(taken, layout.rows, layout.offsets, strict=True):
        index = candidate.index
        if candidate.group is not last:  # mostly one group's responses follow each other, so the last is kept at hand
            last = group = candidate.group
            record, header = group.record, group.record.header
            stamp = (header.verifier.name, header.verifier.epoch) if header.verifier else ("", 0)
        one = header.trajectories[index]
        position = group.progress[index].position
        if not position and num_tokens == group.num_tokens[index]:
            interval = TokenInterval(one.trajectory_id, 0, one.num_tokens)
            logged.loss_tokens.append(num_tokens)
        else:
            interval = token_interval(record, index, position, position + num_tokens)
            logged.loss_tokens.append(count_loss_tokens(record, index, interval))
        logged.segments.append(one.segments)
        logged.scored_by.append(stamp)
        age = learner.number - group.oldest[index]
        sequences.append(
            PackedSequence(
                one.trajectory_id,
                header.prompt.source,
                row,
                offset,
                header.num_prompt_tokens,
                one.num_tokens,
                interval,
                one.reward if one.reward is not None else float("nan"),
                record.advantages[index],
                age if age > 0 else 0,
            )
        )
    return sequences, logged

"""Batch planning: groups of all shards in, one logged plan of exactly Φ loss tokens out.

Owns: a held group as planning sees it, the candidates, and a plan's logged form. Does not own what becomes of groups
(`buffer`), the choice among candidates (`token_budget`), nor where tokens lie (`packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ring_async.batches import BatchPlan, PackedSequence, TokenInterval
from ring_async.columns import MAX_COLUMNS, Column, united
from ring_async.core.packing import lay_out
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.replay.progress import (
    GroupProgress,
    GroupRecord,
    all_loss_tokens,
    count_loss_tokens,
    token_interval,
)
from ring_async.core.replay.token_budget import Candidate, Shortfall, choose_tokens, order_candidates
from ring_async.core.staleness import Lineage, StalenessMeasure, birth_numbers
from ring_async.core.verifier_epochs import is_admitted
from ring_async.trajectory_states import TrajectoryStatus
from ring_async.types import EpochRules, PolicyVersion, Segment

NO_RULES: Mapping[str, EpochRules] = {}

Taken = tuple[str, int, int]
"""Group id, index within the group, loss tokens taken."""


class HeldGroup(msgspec.Struct):
    """A buffered group as planning sees it: its record, its progress, and the values that follow from both.

    `births[k]` and `oldest[k]` are the version numbers that the staleness of trajectory k counts from: under the
    configured measure, and from its oldest token. `trainable`: loss tokens that may still be trained, over all their
    uses; `is_open`: some trajectory may still be trained; `is_used`: some trajectory was trained to its end and is not
    retired yet.

    Example:
        A group of two responses of 6 loss tokens each, all sampled by version 3: `num_tokens` (6, 6), `births` [3, 3],
        `trainable` 12 with `max_reuse` 1. After a batch took 4 tokens of the first response, `trainable` is 8.
    """

    record: GroupRecord
    progress: GroupProgress
    num_tokens: tuple[int, ...]
    births: list[int]
    oldest: list[int]
    trainable: int = 0
    is_open: bool = False
    is_used: bool = False

    def count_births(self, lineage: Lineage, measure: StalenessMeasure) -> None:
        """Compute `births` and `oldest` anew, for a lineage of the learner."""
        trajectories = self.record.header.trajectories
        self.oldest = birth_numbers(trajectories, lineage)
        self.births = self.oldest if measure == "oldest" else birth_numbers(trajectories, lineage, measure)

    def take_stock(self, max_reuse: int) -> None:
        """Compute the other values anew, after progress or bounds changed."""
        trainable, is_open, is_used = 0, False, False
        for num_tokens, one in zip(self.num_tokens, self.progress, strict=True):
            if one.is_open:
                is_open = True
                trainable += (max_reuse - one.num_uses) * num_tokens - one.position
            elif one.state == TrajectoryStatus.CONSUMED:
                is_used = True
        self.trainable, self.is_open, self.is_used = trainable, is_open, is_used


class PlannedBatch(msgspec.Struct, frozen=True):
    """A plan to be logged, and the number of loss tokens that it takes of each trajectory."""

    entry: PlanEntry
    taken: tuple[Taken, ...]


def hold(record: GroupRecord, progress: GroupProgress, rules: BufferRules, lineage: Lineage) -> HeldGroup:
    """Make a `HeldGroup` of a group that another shard's buffer keeps."""
    held = HeldGroup(record, progress, all_loss_tokens(record), [], [])
    held.count_births(lineage, rules.staleness_measure)
    held.take_stock(rules.max_reuse)
    return held


def planning_record(record: GroupRecord) -> GroupRecord:
    """The record without the prompt's text and metadata, which planning does not need."""
    header = record.header
    prompt = msgspec.structs.replace(header.prompt, text="", metadata={})
    return msgspec.structs.replace(record, header=msgspec.structs.replace(header, prompt=prompt))


def plan_batch(
    held: Mapping[str, HeldGroup],
    rules: BufferRules,
    lineage: Lineage,
    plan_number: int,
    learner: PolicyVersion,
    *,
    is_final: bool = False,
    epoch_rules: Mapping[str, EpochRules] = NO_RULES,
) -> PlannedBatch | Shortfall:
    """Plan a batch of exactly Φ loss tokens, or say why there is none yet.

    Passed over are trajectories beyond `max_staleness`, groups scored by an epoch that `epoch_rules` bar, and groups
    with a column that is not among the agreed ones: most others have it with another dtype or width, since one array
    cannot hold both, or a batch cannot carry so many.
    """
    columns = agreed_columns(held.values())
    where, candidates, num_unlike = _eligible(held, rules, learner, epoch_rules, columns)
    ordered = order_candidates(candidates, rules.order, salt=rules.seed + plan_number, shares=rules.source_shares)
    choice = choose_tokens(candidates, ordered, rules.token_budget, is_final=is_final)
    if isinstance(choice, Shortfall):
        if not num_unlike:
            return choice
        described = ", ".join(map(str, columns.values()))
        return Shortfall(f"{choice.reason}; {num_unlike} groups have columns unlike the others' {described}")
    taken = tuple([(*where[i], num_tokens) for i, num_tokens in choice.taken])
    sequences, logged = _sequences(held, taken, rules, learner)
    headers = [held[group_id].record.header for group_id in dict.fromkeys(group_id for group_id, _, _ in taken)]
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
        columns=united([header.columns for header in headers], f"plan {plan_number}") if columns else (),
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
    return PlannedBatch(entry, taken)


def agreed_columns(held: Iterable[HeldGroup]) -> dict[str, Column]:
    """For each optional column, by name, the description that the groups with most trainable tokens share; of more
    than `MAX_COLUMNS` names, those with most tokens.
    """
    tokens: dict[Column, int] = {}
    for group in held:
        for column in group.record.header.columns:
            tokens[column] = tokens.get(column, 0) + group.trainable
    agreed = {column.name: column for column in sorted(tokens, key=tokens.__getitem__)}
    most = sorted(agreed.values(), key=tokens.__getitem__, reverse=True)[:MAX_COLUMNS]
    return {column.name: column for column in most}


def _eligible(
    held: Mapping[str, HeldGroup],
    rules: BufferRules,
    learner: PolicyVersion,
    epoch_rules: Mapping[str, EpochRules],
    columns: Mapping[str, Column],
) -> tuple[list[tuple[str, int]], list[Candidate], int]:
    """The responses that this batch may take from (group id, index), their candidates, and the number of groups passed
    over because of a column that differs from the others'.
    """
    max_staleness, carries = rules.max_staleness, rules.carries
    where: list[tuple[str, int]] = []
    candidates: list[Candidate] = []
    num_unlike = 0
    for group_id, group in held.items():
        record = group.record
        header = record.header
        if not group.is_open or not is_admitted(header, epoch_rules):
            continue
        if header.columns and any(columns.get(column.name) != column for column in header.columns):
            num_unlike += 1
            continue
        source, arrival, advantages = header.prompt.source, record.arrival, record.advantages
        for index, progress in enumerate(group.progress):
            age = learner.number - group.births[index]
            if not progress.is_open or age > max_staleness:
                continue
            where.append((group_id, index))
            candidates.append(
                Candidate(
                    group_id,
                    source,
                    group.num_tokens[index] - progress.position,
                    not carries or age < max_staleness,
                    progress.position > 0,
                    progress.num_uses,
                    group.oldest[index],
                    arrival,
                    abs(advantages[index]),
                )
            )
    return where, candidates, num_unlike


class _Logged(msgspec.Struct):
    """The fields that the log keeps beside the plan, one entry for each sequence, and the number of rows."""

    num_rows: int
    loss_tokens: list[int]
    segments: list[tuple[Segment, ...]]
    scored_by: list[tuple[str, int]]


def _sequences(
    held: Mapping[str, HeldGroup], taken: Sequence[Taken], rules: BufferRules, learner: PolicyVersion
) -> tuple[list[PackedSequence], _Logged]:
    """Lay out the chosen responses in rows, and describe each sequence."""
    lengths = []
    for group_id, index, _ in taken:
        header = held[group_id].record.header
        lengths.append(header.num_prompt_tokens + header.trajectories[index].num_tokens)
    layout = lay_out(lengths, rules.token_capacity, rules.num_ranks)
    logged = _Logged(layout.num_rows, [], [], [])
    sequences = []
    last_id = ""
    for (group_id, index, num_tokens), row, offset in zip(taken, layout.rows, layout.offsets, strict=True):
        if group_id != last_id:  # mostly one group's responses follow each other, so the last group is kept at hand
            last_id, group = group_id, held[group_id]
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

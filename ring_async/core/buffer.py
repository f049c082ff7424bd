"""What replay holds, and what becomes of it: the index over buffered groups.

Owns: eligibility, the progress of every trajectory through its uses, eviction, retention, and when a payload may go.
Does not own payloads, files, or time.
Invariants: methods that decide return a `Change` and leave the buffer alone; `apply` puts it in force, after the caller
has made it durable. A token is trained at most `max_reuse` times and never beyond `max_staleness`. A payload is kept
until a checkpoint covers every batch that used it.

    add ──▶ open ──plan──▶ ... ──plan──▶ used up ──cover──▶ retired ──▶ payload released
             └─────────── evict, retain, drop ───────────▶ ended ──cover──▶ payload released
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ring_async.core.packing import lay_out
from ring_async.core.plan_log import PlanEntry
from ring_async.core.progress import (
    Change,
    GroupProgress,
    GroupRecord,
    Progress,
    all_loss_tokens,
    count_loss_tokens,
    is_finished,
    token_interval,
)
from ring_async.core.staleness import Lineage, StalenessMeasure, birth_numbers
from ring_async.core.token_budget import Candidate, Order, Shortfall, choose_tokens, order_candidates
from ring_async.errors import ConfigError
from ring_async.types import BatchPlan, GroupHeader, PackedSequence, PolicyVersion, TokenInterval, TrajectoryState


class BufferRules(msgspec.Struct, frozen=True):
    """Settings of the buffer.

    Attributes:
        token_budget: Φ over all ranks.
        carry: the cut remainder stays and is trained next; otherwise it is dropped. With max_staleness 0 nothing can
            be trained next, so remainders are dropped whatever this says.
        max_buffer_tokens: retention bound in trainable loss tokens; None: `2 (max_staleness + 1) Φ`.
        source_shares: by-domain quotas of loss tokens, or None.
        seed: of the order's random ties.
    """

    token_budget: int
    token_capacity: int
    num_ranks: int = 1
    max_staleness: int = 4
    staleness_measure: StalenessMeasure = "oldest"
    max_reuse: int = 1
    order: Order = "oldest_version"
    carry: bool = True
    max_buffer_tokens: int | None = None
    source_shares: dict[str, float] | None = None
    seed: int = 0

    @property
    def carries(self) -> bool:
        return self.carry and self.max_staleness > 0

    @property
    def retention_tokens(self) -> int:
        return self.max_buffer_tokens or 2 * (self.max_staleness + 1) * self.token_budget * self.max_reuse


OPEN = Progress()
"""A trajectory nothing has happened to."""


class _Entry(msgspec.Struct):
    """A group, and what follows from its progress.

    `births[k]` and `oldest[k]` are what staleness counts from: by the measure in force, and strictly. `trainable` are
    its loss tokens over all their uses; `is_open`: some trajectory may be trained; `is_used`: some trajectory was
    trained to its end and not retired yet.
    """

    record: GroupRecord
    progress: GroupProgress
    num_tokens: tuple[int, ...]
    births: list[int]
    oldest: list[int]
    trainable: int = 0
    is_open: bool = False
    is_used: bool = False


class ReplayBuffer:
    """See the module. `last_plan`, `covered` and `lineage` come from the store after a restart."""

    def __init__(
        self, rules: BufferRules, *, last_plan: int = 0, covered: int = 0, lineage: Lineage | None = None
    ) -> None:
        self.rules = rules
        self.last_plan = last_plan
        self.covered = covered
        self.lineage = lineage or Lineage()
        self._entries: dict[str, _Entry] = {}
        self._next_arrival = 1
        self._trainable = 0

    # -- content

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_arrival(self) -> int:
        return self._next_arrival

    @property
    def trainable_tokens(self) -> int:
        """Loss tokens that may still be trained, over all their uses."""
        return self._trainable

    @property
    def num_open(self) -> int:
        """Trajectories that may still be trained."""
        return sum(1 for _ in self._open())

    def group_ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def record(self, group_id: str) -> GroupRecord:
        return self._entries[group_id].record

    def progress(self, group_id: str) -> GroupProgress:
        return self._entries[group_id].progress

    def add(self, record: GroupRecord, progress: GroupProgress) -> None:
        """Take in a group that is durable: fresh from `admit`, or read back after a restart."""
        group_id = record.header.group_id
        if group_id in self._entries:
            return
        entry = _Entry(record, progress, all_loss_tokens(record), [], [])
        self._count_births(entry)
        self._entries[group_id] = entry
        self._next_arrival = max(self._next_arrival, record.arrival + 1)
        self._take_stock(entry)

    def admit(self, record: GroupRecord, is_masked: Iterable[bool]) -> GroupProgress:
        """First progress of a new group's trajectories: open, or dropped at once with the cause.

        Dropped are responses that are masked (`truncated`), carry no loss token (`no_loss_tokens`), or do not fit into
        a packed row with their prompt (`row_too_short`).
        """
        header = record.header
        longest = self.rules.token_capacity - header.num_prompt_tokens
        loss_tokens = all_loss_tokens(record)
        masks = tuple(is_masked)
        if True not in masks and 0 not in loss_tokens and max(one.num_tokens for one in header.trajectories) <= longest:
            return (OPEN,) * len(loss_tokens)
        result = []
        for trajectory, num_tokens, masked in zip(header.trajectories, loss_tokens, masks, strict=True):
            cause = ""
            if masked:
                cause = "truncated"
            elif not num_tokens:
                cause = "no_loss_tokens"
            elif trajectory.num_tokens > longest:
                cause = "row_too_short"
            result.append(Progress(state="dropped", cause=cause, is_open=False) if cause else OPEN)
        return tuple(result)

    def apply(self, change: Change) -> None:
        """Put a durable change in force."""
        for group_id in change.released:
            self._trainable -= self._entries.pop(group_id).trainable
        for group_id, progress in change.progress.items():
            if entry := self._entries.get(group_id):
                entry.progress = progress
                self._take_stock(entry)
        if change.plan is not None:
            self.last_plan = change.plan.plan_number
        if change.covered is not None:
            self.covered = change.covered
        if change.lineage is not None:
            self.lineage = change.lineage
            for entry in self._entries.values():
                self._count_births(entry)

    def tune(self, rules: BufferRules) -> None:
        """Put changed rules in force from the next decision on.

        Raises:
            ConfigError: the batch could never be filled under them.
        """
        check_rules(rules)
        self.rules = rules
        for entry in self._entries.values():
            self._take_stock(entry)
            self._count_births(entry)

    # -- decisions

    def evict(self, learner: PolicyVersion) -> Change:
        """End what is beyond `max_staleness` at the learner's version, and what exceeds the retention bound.

        Retention takes the oldest first. A trajectory all of whose tokens were trained at least once has lost nothing:
        it is merely not used again.
        """
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        excess = self._trainable - self.rules.retention_tokens

        def end(group_id: str, index: int, cause: str) -> None:
            nonlocal excess
            entry = self._entries[group_id]
            progress = touched.setdefault(group_id, list(entry.progress))
            excess -= self._trainable_one(entry.num_tokens[index], progress[index])
            progress[index] = _ended(entry, index, progress[index], "evicted", cause)
            if progress[index].state == "evicted":
                moved.append(_moved(entry.record, index, progress[index], _untrained(entry, index, progress[index])))

        fresh: list[tuple[int, int, str, int]] = []
        for group_id, index, entry, progress in self._open():
            if progress.num_uses >= self.rules.max_reuse:  # max_reuse was lowered meanwhile
                end(group_id, index, "")
            elif learner.number - entry.births[index] > self.rules.max_staleness:
                end(group_id, index, "stale")
            elif excess > 0:
                fresh.append((entry.oldest[index], entry.record.arrival, group_id, index))
        if excess > 0:
            for _, _, group_id, index in sorted(fresh):
                if excess <= 0:
                    break
                end(group_id, index, "retention")
        return self._change(touched, moved)

    def plan(self, plan_number: int, learner: PolicyVersion, *, is_final: bool = False) -> Change | Shortfall:
        """Decide on the next batch: exactly Φ loss tokens, or why not yet. Assumes that `evict` was applied.

        Raises:
            ValueError: `plan_number` is not the next one.
        """
        if plan_number != self.last_plan + 1:
            raise ValueError(f"batch {plan_number} was asked for, but the next one is {self.last_plan + 1}")
        rules = self.rules
        max_staleness, carries = rules.max_staleness, rules.carries
        where: list[tuple[str, int]] = []
        candidates: list[Candidate] = []
        for group_id, index, entry, progress in self._open():
            age = learner.number - entry.births[index]
            if age > max_staleness:
                continue
            where.append((group_id, index))
            record, position = entry.record, progress.position
            candidates.append(
                Candidate(
                    group_id,
                    record.header.prompt.source,
                    entry.num_tokens[index] - position,
                    not carries or age < max_staleness,
                    position > 0,
                    progress.num_uses,
                    entry.oldest[index],
                    record.arrival,
                    abs(record.advantages[index]),
                )
            )
        ordered = order_candidates(candidates, rules.order, salt=rules.seed + plan_number, shares=rules.source_shares)
        choice = choose_tokens(candidates, ordered, rules.token_budget, is_final=is_final)
        if isinstance(choice, Shortfall):
            return choice
        return self._planned(
            plan_number, learner, [(*where[i], num_tokens) for i, num_tokens in choice.taken], is_final
        )

    def cover(self, plan_number: int) -> Change:
        """A durable learner checkpoint covers all batches up to `plan_number`: retire and release what they used up."""
        covered = max(plan_number, self.covered)
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        before = after = OPEN
        for group_id, entry in self._entries.items():
            if not entry.is_used:
                continue
            group = list(entry.progress)
            trajectories = entry.record.header.trajectories
            for index, progress in enumerate(entry.progress):
                if progress.state == "consumed" and not progress.is_open and progress.last_plan <= covered:
                    if progress is not before:  # trajectories that one batch used up share their progress
                        before, after = progress, msgspec.structs.replace(progress, state="retired")
                    group[index] = after
                    one = trajectories[index]
                    moved.append(TrajectoryState(one.trajectory_id, "retired", after.cause, one.num_tokens))
                    touched[group_id] = group
        return self._change(touched, moved, covered=covered)

    def fork(self, incarnation: int) -> Change:
        """The learner came back as a new incarnation; it will train the logged batches again, then go on from there."""
        return Change({}, lineage=self.lineage.forked(incarnation, self.last_plan))

    # -- parts

    def _open(self) -> Iterator[tuple[str, int, _Entry, Progress]]:
        for group_id, entry in self._entries.items():
            if not entry.is_open:
                continue
            for index, progress in enumerate(entry.progress):
                if progress.is_open:
                    yield group_id, index, entry, progress

    def _count_births(self, entry: _Entry) -> None:
        segments = [trajectory.segments for trajectory in entry.record.header.trajectories]
        measure = self.rules.staleness_measure
        entry.oldest = birth_numbers(segments, self.lineage)
        entry.births = entry.oldest if measure == "oldest" else birth_numbers(segments, self.lineage, measure)

    def _trainable_one(self, num_tokens: int, progress: Progress) -> int:
        return (self.rules.max_reuse - progress.num_uses) * num_tokens - progress.position if progress.is_open else 0

    def _take_stock(self, entry: _Entry) -> None:
        """Follow an entry's new progress, or new rules."""
        self._trainable -= entry.trainable
        trainable, is_open, is_used = 0, False, False
        max_reuse = self.rules.max_reuse
        for num_tokens, one in zip(entry.num_tokens, entry.progress, strict=True):
            if one.is_open:
                is_open = True
                trainable += (max_reuse - one.num_uses) * num_tokens - one.position
            elif one.state == "consumed":
                is_used = True
        entry.trainable, entry.is_open, entry.is_used = trainable, is_open, is_used
        self._trainable += trainable

    def _change(
        self, touched: Mapping[str, list[Progress]], moved: list[TrajectoryState], *, covered: int | None = None
    ) -> Change:
        progress = {group_id: tuple(group) for group_id, group in touched.items()}
        horizon = self.covered if covered is None else covered
        looked_at = progress
        if covered is not None:
            looked_at = {
                g: progress.get(g) or entry.progress for g, entry in self._entries.items() if not entry.is_open
            }
        released = tuple(group_id for group_id, group in looked_at.items() if is_finished(group, horizon))
        return Change(progress, released, tuple(moved), covered=covered)

    def _planned(
        self, plan_number: int, learner: PolicyVersion, taken: list[tuple[str, int, int]], is_final: bool
    ) -> Change:
        rules = self.rules
        entries = self._entries
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        lengths = []
        for group_id, index, _ in taken:
            header = entries[group_id].record.header
            lengths.append(header.num_prompt_tokens + header.trajectories[index].num_tokens)
        layout = lay_out(lengths, rules.token_capacity, rules.num_ranks)
        sequences, loss_tokens, segments = [], [], []
        headers: list[GroupHeader] = []
        last_id = ""
        before = after = OPEN
        was_whole = False
        for (group_id, index, num_tokens), row, offset in zip(taken, layout.rows, layout.offsets, strict=True):
            if group_id != last_id:  # a group's responses mostly follow each other
                last_id, entry = group_id, entries[group_id]
                record, header = entry.record, entry.record.header
                if group_id not in touched:
                    touched[group_id] = list(entry.progress)
                    headers.append(header)
                group = touched[group_id]
            progress = entry.progress[index]
            is_whole = not progress.position and num_tokens == entry.num_tokens[index]
            if not (is_whole and was_whole and progress == before):  # whole responses share what becomes of them
                after = self._advanced(entry, index, progress, num_tokens, plan_number)
                before, was_whole = progress, is_whole
            group[index] = after
            one = header.trajectories[index]
            if is_whole:
                interval = TokenInterval(one.trajectory_id, 0, one.num_tokens)
            else:
                interval = token_interval(record, index, progress.position, progress.position + num_tokens)
            age = learner.number - entry.oldest[index]
            loss_tokens.append(count_loss_tokens(record, index, interval))
            segments.append(one.segments)
            moved.append(TrajectoryState(one.trajectory_id, after.state, after.cause, one.num_tokens))
            sequences.append(
                PackedSequence(
                    one.trajectory_id,
                    header.prompt.source,
                    row,
                    offset,
                    header.num_prompt_tokens,
                    one.num_tokens,
                    interval,
                    reward=one.reward if one.reward is not None else float("nan"),
                    advantage=record.advantages[index],
                    staleness=age if age > 0 else 0,
                )
            )
        plan = BatchPlan(
            plan_number=plan_number,
            policy_version=learner,
            token_budget=rules.token_budget,
            num_rows=layout.num_rows,
            token_capacity=rules.token_capacity,
            num_ranks=rules.num_ranks,
            sequences=tuple(sequences),
            verifier_epoch=max([header.verifier.epoch if header.verifier else 0 for header in headers]),
            mixture_epoch=max([header.mixture_epoch for header in headers]),
            is_final=is_final,
        )
        logged = PlanEntry(
            plan=plan,
            max_staleness=rules.max_staleness,
            staleness_measure=rules.staleness_measure,
            max_reuse=rules.max_reuse,
            lineage=self.lineage,
            loss_tokens=tuple(loss_tokens),
            segments=tuple(segments),
        )
        return Change({g: tuple(group) for g, group in touched.items()}, (), tuple(moved), logged)

    def _advanced(self, entry: _Entry, index: int, before: Progress, num_tokens: int, plan_number: int) -> Progress:
        position = before.position + num_tokens
        after = msgspec.structs.replace(before, position=position, last_plan=plan_number, state="consumed")
        if position == entry.num_tokens[index]:
            num_uses = before.num_uses + 1
            is_open = num_uses < self.rules.max_reuse
            return msgspec.structs.replace(after, position=0, num_uses=num_uses, is_open=is_open)
        if not self.rules.carries:
            return _ended(entry, index, after, "dropped", "leftover")
        return after


def check_rules(rules: BufferRules) -> None:
    """Refuse rules under which no batch could ever be filled.

    Raises:
        ConfigError: says which.
    """
    if rules.retention_tokens < rules.token_budget:
        raise ConfigError(
            f"replay.max_buffer_tokens: {rules.retention_tokens:,} is smaller than one batch of {rules.token_budget:,}"
        )
    if rules.max_staleness < 0 or rules.max_reuse < 1:
        raise ConfigError("replay.max_staleness must be 0 or more, replay.max_reuse 1 or more")


def _untrained(entry: _Entry, index: int, progress: Progress) -> int:
    """Loss tokens that no batch has trained."""
    return 0 if progress.num_uses else entry.num_tokens[index] - progress.position


def _ended(entry: _Entry, index: int, progress: Progress, state: str, cause: str) -> Progress:
    if not _untrained(entry, index, progress):
        return msgspec.structs.replace(progress, is_open=False)
    return msgspec.structs.replace(progress, is_open=False, state=state, cause=cause)


def _moved(record: GroupRecord, index: int, progress: Progress, num_tokens: int | None = None) -> TrajectoryState:
    trajectory = record.header.trajectories[index]
    tokens = trajectory.num_tokens if num_tokens is None else num_tokens
    return TrajectoryState(trajectory.trajectory_id, progress.state, progress.cause, tokens)

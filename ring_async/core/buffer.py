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

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from ring_async.core.packing import lay_out
from ring_async.core.progress import (
    Change,
    GroupProgress,
    GroupRecord,
    Progress,
    all_loss_tokens,
    is_finished,
    token_interval,
)
from ring_async.core.staleness import Lineage, StalenessMeasure, birth_number
from ring_async.core.token_budget import Candidate, Order, Shortfall, choose_tokens, order_candidates
from ring_async.errors import ConfigError
from ring_async.types import BatchPlan, EpochRules, GroupHeader, PackedSequence, PolicyVersion, TrajectoryState


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

ANY_EPOCH = EpochRules()


@dataclass(slots=True)
class _Entry:
    """A group. `births[k]` and `oldest[k]` are what staleness counts from: by the measure in force, and strictly."""

    record: GroupRecord
    progress: GroupProgress
    num_tokens: tuple[int, ...]
    births: list[int]
    oldest: list[int]


class ReplayBuffer:
    """See the module. The named arguments come from the store after a restart."""

    def __init__(
        self,
        rules: BufferRules,
        *,
        last_plan: int = 0,
        covered: int = 0,
        lineage: Lineage | None = None,
        epoch_rules: Mapping[str, EpochRules] | None = None,
    ) -> None:
        self.rules = rules
        self.last_plan = last_plan
        self.covered = covered
        self.lineage = lineage or Lineage()
        self.epoch_rules = dict(epoch_rules or {})
        self._entries: dict[str, _Entry] = {}
        self._barred: set[str] = set()
        """Groups scored by an epoch that may not be trained on: they wait to be judged again."""
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
        return sum(1 for entry in self._entries.values() for progress in entry.progress if progress.is_open)

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
        num_tokens = all_loss_tokens(record)
        entry = _Entry(record, progress, num_tokens, [], [])
        self._count_births(entry)
        self._entries[group_id] = entry
        self._next_arrival = max(self._next_arrival, record.arrival + 1)
        self._trainable += self._trainable_of(entry, progress)
        if not self._is_admitted(record.header):
            self._barred.add(group_id)

    def admit(self, record: GroupRecord, is_masked: Iterable[bool]) -> GroupProgress:
        """First progress of a new group's trajectories: open, or dropped at once with the cause.

        Dropped are responses that are masked (`truncated`), carry no loss token (`no_loss_tokens`), or do not fit into
        a packed row with their prompt (`row_too_short`).
        """
        header = record.header
        longest = self.rules.token_capacity - header.num_prompt_tokens
        result = []
        for trajectory, num_tokens, masked in zip(header.trajectories, all_loss_tokens(record), is_masked, strict=True):
            cause = ""
            if masked:
                cause = "truncated"
            elif not num_tokens:
                cause = "no_loss_tokens"
            elif trajectory.num_tokens > longest:
                cause = "row_too_short"
            result.append(Progress(state="dropped", cause=cause, is_open=False) if cause else OPEN)
        return tuple(result)

    # -- judged again

    @property
    def barred(self) -> tuple[str, ...]:
        """Groups that wait to be judged again."""
        return tuple(group_id for group_id in self._barred if self._has_open(group_id))

    def awaits(self, header: GroupHeader) -> bool:
        """Whether this is the verdict that a group held here waits for."""
        group_id = header.group_id
        return group_id in self._barred and self._has_open(group_id) and self._is_admitted(header)

    def judged_again(self, record: GroupRecord, is_masked: Iterable[bool], *, has_signal: bool) -> GroupProgress:
        """Progress of a group under new verdicts; trajectories that ended meanwhile stay ended."""
        fresh = self.admit(record, is_masked)
        if not has_signal:
            fresh = (Progress(state="dropped", cause="no_signal", is_open=False),) * len(fresh)
        before = self.progress(record.header.group_id)
        return tuple(now if was.is_open else was for was, now in zip(before, fresh, strict=True))

    def replace(self, record: GroupRecord, progress: GroupProgress) -> None:
        """Put durable new verdicts in force."""
        group_id = record.header.group_id
        entry = self._entries[group_id]
        self._trainable += self._trainable_of(entry, progress) - self._trainable_of(entry, entry.progress)
        entry.record, entry.progress = record, progress
        self._barred.discard(group_id)

    def bar(self, epoch_rules: Mapping[str, EpochRules]) -> Change:
        """New epoch rules. What they bar is judged again if no batch used any of it, else its rest is dropped."""
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        for group_id, entry in self._entries.items():
            if not _is_used(entry.progress) or self._is_admitted(entry.record.header, epoch_rules):
                continue
            self._end_open(group_id, "rescored", touched, moved)
        return dataclasses.replace(self._change(touched, moved), epoch_rules=dict(epoch_rules))

    def give_up(self, group_id: str) -> Change:
        """A group that waits to be judged again cannot be."""
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        if group_id in self._barred:
            self._end_open(group_id, "unjudged", touched, moved)
        return self._change(touched, moved)

    # -- changes

    def apply(self, change: Change) -> None:
        """Put a durable change in force."""
        for group_id, progress in change.progress.items():
            entry = self._entries[group_id]
            self._trainable += self._trainable_of(entry, progress)
            self._trainable -= self._trainable_of(entry, entry.progress)
            entry.progress = progress
        for group_id in change.released:
            entry = self._entries.pop(group_id)
            self._barred.discard(group_id)
            self._trainable -= self._trainable_of(entry, entry.progress)
        if change.epoch_rules is not None:
            self.epoch_rules = change.epoch_rules
            self._barred = {
                group_id for group_id, entry in self._entries.items() if not self._is_admitted(entry.record.header)
            }
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
        self._trainable = sum(self._trainable_of(entry, entry.progress) for entry in self._entries.values())
        for entry in self._entries.values():
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
        where: list[tuple[str, int]] = []
        candidates: list[Candidate] = []
        for group_id, index, entry, progress in self._open():
            if group_id in self._barred:
                continue
            record = entry.record
            age = learner.number - entry.births[index]
            if age > rules.max_staleness:
                continue
            where.append((group_id, index))
            candidates.append(
                Candidate(
                    group_id=group_id,
                    source=record.header.prompt.source,
                    num_loss_tokens=entry.num_tokens[index] - progress.position,
                    can_split=not rules.carries or age < rules.max_staleness,
                    is_remainder=progress.position > 0,
                    num_uses=progress.num_uses,
                    oldest_number=entry.oldest[index],
                    arrival=record.arrival,
                    abs_advantage=abs(record.advantages[index]),
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
        for group_id, entry in self._entries.items():
            for index, progress in enumerate(entry.progress):
                if progress.state == "consumed" and not progress.is_open and progress.last_plan <= covered:
                    retired = msgspec.structs.replace(progress, state="retired")
                    touched.setdefault(group_id, list(entry.progress))[index] = retired
                    moved.append(_moved(entry.record, index, retired))
        return self._change(touched, moved, covered=covered)

    def fork(self, incarnation: int) -> Change:
        """The learner came back as a new incarnation; it will train the logged batches again, then go on from there."""
        return Change({}, lineage=self.lineage.forked(incarnation, self.last_plan))

    # -- parts

    def _is_admitted(self, header: GroupHeader, epoch_rules: Mapping[str, EpochRules] | None = None) -> bool:
        rules = self.epoch_rules if epoch_rules is None else epoch_rules
        return header.verifier is None or rules.get(header.verifier.name, ANY_EPOCH).admits(header.verifier.epoch)

    def _has_open(self, group_id: str) -> bool:
        return any(one.is_open for one in self._entries[group_id].progress)

    def _end_open(
        self, group_id: str, cause: str, touched: dict[str, list[Progress]], moved: list[TrajectoryState]
    ) -> None:
        entry = self._entries[group_id]
        for index, progress in enumerate(entry.progress):
            if progress.is_open:
                ended = _ended(entry, index, progress, "dropped", cause)
                touched.setdefault(group_id, list(entry.progress))[index] = ended
                if ended.state == "dropped":
                    moved.append(_moved(entry.record, index, ended, _untrained(entry, index, ended)))

    def _open(self) -> Iterator[tuple[str, int, _Entry, Progress]]:
        for group_id, entry in self._entries.items():
            for index, progress in enumerate(entry.progress):
                if progress.is_open:
                    yield group_id, index, entry, progress

    def _count_births(self, entry: _Entry) -> None:
        trajectories, measure = entry.record.header.trajectories, self.rules.staleness_measure
        entry.oldest = [birth_number(one.segments, self.lineage) for one in trajectories]
        if measure == "oldest":
            entry.births = entry.oldest
        else:
            entry.births = [birth_number(one.segments, self.lineage, measure) for one in trajectories]

    def _trainable_one(self, num_tokens: int, progress: Progress) -> int:
        return (self.rules.max_reuse - progress.num_uses) * num_tokens - progress.position if progress.is_open else 0

    def _trainable_of(self, entry: _Entry, progress: GroupProgress) -> int:
        total, max_reuse = 0, self.rules.max_reuse
        for num_tokens, one in zip(entry.num_tokens, progress, strict=True):
            if one.is_open:
                total += (max_reuse - one.num_uses) * num_tokens - one.position
        return total

    def _change(
        self, touched: Mapping[str, list[Progress]], moved: list[TrajectoryState], *, covered: int | None = None
    ) -> Change:
        progress = {group_id: tuple(group) for group_id, group in touched.items()}
        horizon = self.covered if covered is None else covered
        looked_at = self._entries if covered is not None else progress
        released = tuple(
            group_id
            for group_id in looked_at
            if is_finished(progress.get(group_id) or self._entries[group_id].progress, horizon)
        )
        return Change(progress, released, tuple(moved), covered=covered)

    def _planned(
        self, plan_number: int, learner: PolicyVersion, taken: list[tuple[str, int, int]], is_final: bool
    ) -> Change:
        rules = self.rules
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        lengths = []
        for group_id, index, _ in taken:
            header = self._entries[group_id].record.header
            lengths.append(header.num_prompt_tokens + header.trajectories[index].num_tokens)
        layout = lay_out(lengths, rules.token_capacity, rules.num_ranks)
        sequences = []
        for place, (group_id, index, num_tokens) in enumerate(taken):
            entry = self._entries[group_id]
            record, before = entry.record, entry.progress[index]
            after = self._advanced(entry, index, before, num_tokens, plan_number)
            touched.setdefault(group_id, list(entry.progress))[index] = after
            moved.append(_moved(record, index, after))
            trajectory = record.header.trajectories[index]
            sequences.append(
                PackedSequence(
                    trajectory_id=trajectory.trajectory_id,
                    source=record.header.prompt.source,
                    row=layout.rows[place],
                    offset=layout.offsets[place],
                    num_prompt_tokens=record.header.num_prompt_tokens,
                    num_response_tokens=trajectory.num_tokens,
                    interval=token_interval(record, index, before.position, before.position + num_tokens),
                    reward=trajectory.reward if trajectory.reward is not None else float("nan"),
                    advantage=record.advantages[index],
                    staleness=max(0, learner.number - entry.oldest[index]),
                )
            )
        headers = [self._entries[group_id].record.header for group_id in touched]
        plan = BatchPlan(
            plan_number=plan_number,
            policy_version=learner,
            token_budget=rules.token_budget,
            num_rows=layout.num_rows,
            token_capacity=rules.token_capacity,
            num_ranks=rules.num_ranks,
            sequences=tuple(sequences),
            verifier_epoch=max(header.verifier.epoch if header.verifier else 0 for header in headers),
            mixture_epoch=max(header.mixture_epoch for header in headers),
            is_final=is_final,
        )
        return Change({g: tuple(group) for g, group in touched.items()}, (), tuple(moved), plan)

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


def _is_used(progress: GroupProgress) -> bool:
    """Whether a batch holds any of the group."""
    return any(one.last_plan for one in progress)


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

"""The replay buffer: the index over buffered groups, and the decisions about them.

Owns: eligibility, the progress of every trajectory, eviction, retention, and when a payload may be released.
Does not own payloads, files, or time.
Invariants: methods that decide return a `Change` and do not change the buffer; `apply` carries the change out, after
the caller has made it durable. A token is trained at most `max_reuse` times and never beyond `max_staleness`. A payload
is kept until a checkpoint covers every batch that used it. What happens for each group, batch or checkpoint costs as
much as what it touches, however many groups are held; only changed rules, settings and lineages look at all of them.

    add ──▶ open ──plan──▶ ... ──plan──▶ used up ──cover──▶ retired ──▶ payload released
             └─────────── evict, retain, drop ───────────▶ ended ──cover──▶ payload released
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import msgspec

from ring_async.core.replay.batch_planning import Taken, plan_batch
from ring_async.core.replay.buffer_rules import BufferRules, check_rules
from ring_async.core.replay.held_group import HeldGroup
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.offers import Offer, OfferLog, OfferMark
from ring_async.core.replay.progress import (
    Change,
    GroupProgress,
    GroupRecord,
    Progress,
    all_loss_tokens,
    is_finished,
)
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.replay.transitions import OPEN, advanced, arrived, ended_as, moved_to, untrained_tokens
from ring_async.core.staleness import Lineage
from ring_async.core.verifier_epochs import is_admitted
from ring_async.trajectory_states import EndCause, TrajectoryState, TrajectoryStatus
from ring_async.types import EpochRules, GroupHeader, PolicyVersion


class ReplayBuffer:
    """The groups that one shard holds, and the decisions about them.

    Args:
        rules: settings of the decisions; `tune` changes them.
        last_plan, covered, lineage, epoch_rules: the state to go on from, as stored before a restart.
        stream: names this opening of the buffer to the planner of several shards, which knows what earlier ones held.

    Example:
        With Φ = 10, groups `a` and `b` of two responses of 6 tokens each are added. `plan(1, version)` takes `a/0`
        whole and 4 tokens of `a/1`; the caller makes that `Change` durable and calls `apply`. Batch 2 begins with the
        2 tokens left of `a/1`. After `cover(2)`, a checkpoint of both batches, `a` is retired and may be released.
    """

    def __init__(
        self,
        rules: BufferRules,
        *,
        last_plan: int = 0,
        covered: int = 0,
        lineage: Lineage | None = None,
        epoch_rules: Mapping[str, EpochRules] | None = None,
        stream: str = "",
    ) -> None:
        self.last_plan = last_plan
        self.covered = covered
        self._held = HeldGroups(rules, lineage or Lineage(), epoch_rules)
        self._offers = OfferLog(stream) if rules.num_shards > 1 else None
        self._next_arrival = 1

    # -- content

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def rules(self) -> BufferRules:
        return self._held.rules

    @property
    def lineage(self) -> Lineage:
        return self._held.lineage

    @property
    def epoch_rules(self) -> dict[str, EpochRules]:
        return self._held.epoch_rules

    @property
    def next_arrival(self) -> int:
        return self._next_arrival

    @property
    def trainable_tokens(self) -> int:
        """The number of loss tokens that may still be trained, over all their uses."""
        return self._held.trainable

    @property
    def eligible_tokens(self) -> int:
        """The trainable tokens of groups whose verdicts are not barred."""
        return self._held.trainable - self._held.barred_trainable

    @property
    def num_open(self) -> int:
        """The number of trajectories that may still be trained."""
        return self._held.num_open

    def group_ids(self) -> tuple[str, ...]:
        return tuple(self._held)

    def record(self, group_id: str) -> GroupRecord:
        return self._held[group_id].record

    def progress(self, group_id: str) -> GroupProgress:
        return self._held[group_id].progress

    def add(self, record: GroupRecord, progress: GroupProgress) -> None:
        """Add a durable group: one that `admit` took in, or one read back after a restart."""
        group_id = record.header.group_id
        if group_id in self._held:
            return
        self._next_arrival = max(self._next_arrival, record.arrival + 1)
        self.replace(record, progress)

    def admit(self, record: GroupRecord, is_masked: Iterable[bool]) -> GroupProgress:
        """The first progress of a new group's trajectories: each is open, or dropped at once with a cause.

        Responses that could not be judged are failed. Others are dropped if they are masked (`truncated`), carry no
        loss token (`no_loss_tokens`), or do not fit into a packed row together with their prompt (`row_too_short`).
        """
        header = record.header
        longest = self.rules.token_capacity - header.num_prompt_tokens
        loss_tokens = all_loss_tokens(record)
        masks = tuple(is_masked)
        fits = max(one.num_tokens for one in header.trajectories) <= longest
        is_judged = not any(one.failure for one in header.trajectories)
        if fits and is_judged and True not in masks and 0 not in loss_tokens:
            return (OPEN,) * len(loss_tokens)
        return tuple(
            [
                arrived(trajectory, num_tokens, longest, is_masked=masked)
                for trajectory, num_tokens, masked in zip(header.trajectories, loss_tokens, masks, strict=True)
            ]
        )

    # -- judged again

    def barred(self, limit: int | None = None) -> tuple[str, ...]:
        """The ids of the groups that wait to be judged again, `limit` at most."""
        return tuple(islice((group_id for group_id in self._held.barred if self._held[group_id].is_open), limit))

    def is_barred(self, group_id: str) -> bool:
        """Whether a group waits to be judged again."""
        return group_id in self._held.barred and self._held[group_id].is_open

    def awaits(self, header: GroupHeader) -> bool:
        """Whether a group held here waits for this verdict."""
        return self.is_barred(header.group_id) and is_admitted(header, self.epoch_rules)

    def judged_again(self, group_id: str, fresh: GroupProgress) -> GroupProgress:
        """The progress of a group under new verdicts; trajectories that ended meanwhile stay ended."""
        return tuple(now if was.is_open else was for was, now in zip(self.progress(group_id), fresh, strict=True))

    def replace(self, record: GroupRecord, progress: GroupProgress) -> None:
        """Replace a group's verdicts by new ones, which are durable."""
        self._held.put(record, progress)
        self._note(record.header.group_id, is_new=True)

    def bar(self, epoch_rules: Mapping[str, EpochRules]) -> Change:
        """Decide on new epoch rules: a barred group that no batch used is judged again; the rest of a used one is
        dropped.
        """
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        for group_id, entry in self._held.items():
            is_in_use = any(one.last_plan for one in entry.progress)
            if is_in_use and not is_admitted(entry.record.header, epoch_rules):
                self._end_open(group_id, EndCause.RESCORED, touched, moved)
        return replace(self._change(touched, moved), epoch_rules=dict(epoch_rules))

    def give_up(self, group_id: str) -> Change:
        """Drop a group that waits to be judged again but that no verifier can judge."""
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        if self.is_barred(group_id):
            self._end_open(group_id, EndCause.UNJUDGED, touched, moved)
        return self._change(touched, moved)

    # -- changes

    def apply(self, change: Change) -> None:
        """Carry out a change, which is durable."""
        for group_id in change.released:
            if self._held[group_id].is_open:
                self._note(group_id, is_gone=True)
            self._held.drop(group_id)
        for group_id, progress in change.progress.items():
            if group_id in self._held:
                was_open = self._held[group_id].is_open
                self._held.move(group_id, progress)
                if was_open:
                    self._note(group_id)
        if change.plan_number is not None:
            self.last_plan = change.plan_number
        if change.covered is not None:
            self.covered = change.covered
        held = self._held
        held.follow(
            held.rules,
            held.lineage if change.lineage is None else change.lineage,
            held.epoch_rules if change.epoch_rules is None else change.epoch_rules,
        )

    def tune(self, rules: BufferRules) -> None:
        """Change the rules of the decisions to come.

        Raises:
            ConfigError: no batch could ever be filled under these rules.
        """
        check_rules(rules)
        self._held.follow(rules, self.lineage, self.epoch_rules)

    # -- decisions

    def evict(self, learner: PolicyVersion) -> Change:
        """End trajectories beyond `max_staleness` at the learner's version, and those above the retention bound.

        Retention ends the oldest trajectories first, and no remainder, which the next batch begins with. A trajectory
        whose tokens were all trained at least once keeps its state: it is merely not used again.
        """
        held, rules = self._held, self.rules
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        excess = held.trainable - rules.retention_part
        if excess > 0:
            excess = held.trainable - max(rules.retention_part, rules.batch_part(held.most_tokens))

        def end(entry: HeldGroup, index: int, cause: EndCause) -> None:
            nonlocal excess
            progress = touched.setdefault(entry.record.header.group_id, list(entry.progress))
            if not progress[index].is_open:
                return
            excess -= self._trainable_one(entry.num_tokens[index], progress[index])
            progress[index] = ended_as(entry, index, progress[index], TrajectoryStatus.EVICTED, cause)
            if progress[index].state == TrajectoryStatus.EVICTED:
                num_tokens = untrained_tokens(entry, index, progress[index])
                moved.append(moved_to(entry.record, index, progress[index], num_tokens))

        for group_id in held.overused:  # `max_reuse` was lowered meanwhile
            for index, progress in enumerate(held[group_id].progress):
                if progress.is_open and progress.num_uses >= rules.max_reuse:
                    end(held[group_id], index, EndCause.NONE)
        for entry, index in held.born_before(learner.number - rules.max_staleness):
            end(entry, index, EndCause.STALE)
        if excess > 0:
            for entry, index in held.by_age():
                if excess <= 0:
                    break
                if not entry.progress[index].position:
                    end(entry, index, EndCause.RETENTION)
        return self._change(touched, moved)

    def plan(
        self, plan_number: int, learner: PolicyVersion, *, is_final: bool = False,
        others: Sequence[HeldGroups] = (),
    ) -> Change | Shortfall:  # fmt: skip
        """Plan the next batch of exactly Φ loss tokens, or say why there is none yet. Call `evict` and `apply` first.

        `others` are groups of other shards; the change concerns the groups held here.

        Raises:
            ValueError: `plan_number` is not the next one.
        """
        self._check_next(plan_number)
        planned = plan_batch(
            (self._held, *others),
            self.rules, self.lineage, plan_number, learner, is_final=is_final, epoch_rules=self.epoch_rules,
        )  # fmt: skip
        if isinstance(planned, Shortfall):
            return planned
        taken = [one for one in planned.taken if one[0] in self._held] if others else planned.taken
        change = self.advance(plan_number, taken, self.rules.max_reuse, carries=self.rules.carries)
        return replace(change, entry=planned.entry)

    def advance(self, plan_number: int, taken: Sequence[Taken], max_reuse: int, *, carries: bool) -> Change:
        """The change that batch `plan_number` makes to groups held here; `taken` are the parts of the batch that lie
        here.

        The change follows from the logged plan alone, so that a shard that was away computes the same one later.

        Raises:
            ValueError: `plan_number` is not the next one, or a part that it takes is not open here.
        """
        self._check_next(plan_number)
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        last_id = ""
        before = after = OPEN
        was_whole = False
        for group_id, index, num_tokens in taken:
            if group_id != last_id:  # a group's responses mostly follow each other
                last_id, entry = group_id, self._held[group_id]
                if group_id not in touched:
                    touched[group_id] = list(entry.progress)
                group = touched[group_id]
            progress = entry.progress[index]
            is_whole = not progress.position and num_tokens == entry.num_tokens[index]
            # responses that are taken whole share one `Progress`
            if not (is_whole and was_whole and progress == before):
                after = advanced(entry, index, num_tokens, plan_number, max_reuse, carries=carries)
                before, was_whole = progress, is_whole
            group[index] = after
            one = entry.record.header.trajectories[index]
            moved.append(TrajectoryState(one.trajectory_id, after.state, after.cause, one.num_tokens))
        progresses = {group_id: tuple(group) for group_id, group in touched.items()}
        return Change(progresses, (), tuple(moved), plan_number=plan_number)

    def offer(self, since: OfferMark) -> Offer:
        """What the planner of several shards must hear of the groups held here, from a mark on."""
        assert self._offers is not None, "there is one shard, which plans for itself"
        return self._offers.offer(self._held, since)

    def cover(self, plan_number: int) -> Change:
        """Decide on a durable learner checkpoint that covers all batches up to `plan_number`: retire and release
        used-up groups.
        """
        covered = max(plan_number, self.covered)
        touched: dict[str, list[Progress]] = {}
        moved: list[TrajectoryState] = []
        before = after = OPEN
        for group_id, entry in self._held.settling():
            if not entry.is_used:
                continue
            group = list(entry.progress)
            trajectories = entry.record.header.trajectories
            for index, progress in enumerate(entry.progress):
                if progress.is_open or progress.last_plan > covered:
                    continue
                if progress.state == TrajectoryStatus.CONSUMED:
                    if progress is not before:  # trajectories that one batch used up share their progress
                        before, after = progress, msgspec.structs.replace(progress, state=TrajectoryStatus.RETIRED)
                    group[index] = after
                    one = trajectories[index]
                    moved.append(TrajectoryState(one.trajectory_id, after.state, after.cause, one.num_tokens))
                    touched[group_id] = group
        return self._change(touched, moved, covered=covered)

    def fork(self, incarnation: int) -> Change:
        """Decide on a new incarnation of the learner, which trains the logged batches again and goes on from there."""
        return Change({}, lineage=self.lineage.forked(incarnation, self.last_plan))

    # -- parts

    def _note(self, group_id: str, *, is_new: bool = False, is_gone: bool = False) -> None:
        if self._offers is not None:
            is_open = not is_gone and self._held[group_id].is_open
            self._offers.note(group_id, is_open=is_open, is_new=is_new)

    def _end_open(
        self, group_id: str, cause: EndCause, touched: dict[str, list[Progress]], moved: list[TrajectoryState]
    ) -> None:
        entry = self._held[group_id]
        for index, progress in enumerate(entry.progress):
            if progress.is_open:
                ended = ended_as(entry, index, progress, TrajectoryStatus.DROPPED, cause)
                touched.setdefault(group_id, list(entry.progress))[index] = ended
                if ended.state == TrajectoryStatus.DROPPED:
                    moved.append(moved_to(entry.record, index, ended, untrained_tokens(entry, index, ended)))

    def _check_next(self, plan_number: int) -> None:
        if plan_number != self.last_plan + 1:
            raise ValueError(f"batch {plan_number} was asked for, but the next one is {self.last_plan + 1}")

    def _trainable_one(self, num_tokens: int, progress: Progress) -> int:
        return (self.rules.max_reuse - progress.num_uses) * num_tokens - progress.position if progress.is_open else 0

    def _change(
        self, touched: Mapping[str, list[Progress]], moved: list[TrajectoryState], *, covered: int | None = None
    ) -> Change:
        progress = {group_id: tuple(group) for group_id, group in touched.items()}
        horizon = self.covered if covered is None else covered
        looked_at = progress
        if covered is not None:
            ended = {group_id: entry for group_id, entry in self._held.settling() if not entry.is_open}
            looked_at = {group_id: progress.get(group_id) or entry.progress for group_id, entry in ended.items()}
        released = tuple(group_id for group_id, group in looked_at.items() if is_finished(group, horizon))
        return Change(progress, released, tuple(moved), covered=covered)

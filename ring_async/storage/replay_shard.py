"""One shard of replay: the pure buffer and the durable store, kept in step.

Owns: the order "decide, make durable, apply", the packing of planned batches, and the queue of reports to the
controller. Does not own the network or threads: all calls come from one thread.
Invariant: the buffer never shows what the store does not hold, so a process that dies at any instant comes back to a
state that somebody has seen.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from operator import attrgetter

import msgspec

from ring_async.batches import BatchPlan, PackedBatch
from ring_async.columns import Buffer
from ring_async.core.advantages import AdvantageRules, GroupAdvantages, RewardSpread, group_advantages
from ring_async.core.ids import split_id
from ring_async.core.packing import pack_batch
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules, check_rules
from ring_async.core.replay.group_bundle import bundle
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.intake import Receipt, decide_intake
from ring_async.core.replay.offers import Offer, OfferMark
from ring_async.core.replay.plan_log import PlanEntry, PlanPart, plan_part
from ring_async.core.replay.progress import Change, GroupProgress
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.replay.transitions import states_of
from ring_async.core.staleness import Lineage
from ring_async.core.work.portions import in_portions
from ring_async.errors import RefusedError
from ring_async.storage.partial_store import PartialStore
from ring_async.storage.replay_store import ReplayStore, StoredGroup, Writes, check_num_shards
from ring_async.storage.store_history import History
from ring_async.storage.store_reader import INTEGER
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import EpochRules, Group, GroupHeader, PolicyVersion

_lineage_decoder = msgspec.msgpack.Decoder(Lineage)
_rules_decoder = msgspec.msgpack.Decoder(dict[str, EpochRules])

_state_and_cause = attrgetter("state", "cause")


class ReplayShard:
    """The groups of one shard, on disk and in memory.

    Args:
        store: closed by `close`. Its content is read at once.
        rules: of the buffer's decisions.
        advantage_rules: of the advantages of arriving groups.

    Example:
        `put([a, b])` commits both groups and returns a receipt for each. `batch(1, version)` logs plan 1 and returns
        its packed rows; a second `batch(1, version)` returns the same rows, also after the process was killed in
        between. `cover(1)` says that a checkpoint covers plan 1; the next `put` releases what only plan 1 needed.
        `unheard_after(0)` is what the controller must still hear of all this.
    """

    def __init__(self, store: ReplayStore, rules: BufferRules, advantage_rules: AdvantageRules) -> None:
        check_rules(rules)
        check_num_shards(store, rules.num_shards)
        self.store = store
        self.advantage_rules = advantage_rules
        self.counters: Counter[str] = Counter()
        self._spread = RewardSpread()
        self.history = History(store)
        self._heard: list[int] = []
        self._cover_wanted = 0
        with store.read() as reader:
            self.buffer = ReplayBuffer(
                rules,
                last_plan=reader.meta("last_plan", INTEGER, 0),
                covered=reader.meta("covered", INTEGER, 0),
                lineage=reader.meta("lineage", _lineage_decoder, Lineage()),
                epoch_rules=reader.meta("epoch_rules", _rules_decoder, {}),
                stream=uuid.uuid4().hex,
            )
            for record, progress in sorted(reader.records(), key=lambda pair: pair[0].arrival):
                self.buffer.add(record, progress)
            self.unheard = dict(reader.unheard())
        self.partials = PartialStore(store.path / "partials", store.map_size_bytes, self._known)
        self._next_unheard = max((self._unheard_floor(), *self.unheard)) + 1

    # -- groups in

    def put(self, groups: Sequence[Group]) -> list[Receipt]:
        """Take in scored groups with one durable commit; `core.replay.intake` decides on each.

        Raises:
            StorageError: no group was taken in.
            ValueError: a group has no finite rewards.
        """
        known = self._known([group.header.group_id for group in groups])
        intake = decide_intake(groups, self.buffer, known, self._score, cover=self._cover_wanted)
        if intake.is_empty:
            return intake.receipts
        puts = tuple(StoredGroup(one.record, one.progress, one.group.buffers) for one in intake.admitted.values())
        self._commit(self._writes(intake.change, puts, intake.ended), intake.moved)
        self.buffer.apply(intake.change)
        self._cover_wanted = 0
        for group_id, one in intake.admitted.items():
            put = self.buffer.replace if group_id in intake.judged_again else self.buffer.add
            put(one.record, one.progress)
        self.partials.delete([*intake.admitted, *intake.ended])
        self.history.fold(self.buffer)
        return intake.receipts

    def _score(self, header: GroupHeader) -> GroupAdvantages:
        return group_advantages(header, self.advantage_rules, self._spread)

    def _known(self, group_ids: Iterable[str]) -> set[str]:
        with self.store.read() as reader:
            return {g for g in group_ids if g in self.buffer or reader.ended(g) is not None}

    # -- judged again

    def bar(self, epoch_rules: Mapping[str, EpochRules]) -> None:
        """Apply epoch rules from the next plan on; see `ReplayBuffer.bar`.

        Raises:
            StorageError: nothing was changed.
        """
        if dict(epoch_rules) != self.buffer.epoch_rules:
            self._put_in_force(self.buffer.bar(epoch_rules))

    def barred(self, limit: int) -> tuple[str, ...]:
        """The ids of groups that wait to be judged again, so many at most."""
        return self.buffer.barred(limit)

    def barred_group(self, group_id: str) -> Group | None:
        """A copy of a group that waits to be judged again; None if it no longer does.

        Raises:
            StorageError: its payload is damaged.
        """
        if not self.buffer.is_barred(group_id):
            return None
        with self.store.read() as reader:
            group = reader.group(group_id)
            return None if group is None else group.copy()

    def give_up(self, group_id: str) -> None:
        """Drop, as `dropped(unjudged)`, a group that waits to be judged again and that no verifier can judge.

        Raises:
            StorageError: nothing was changed.
        """
        self._put_in_force(self.buffer.give_up(group_id))

    # -- batches out

    def batch(self, plan_number: int, learner: PolicyVersion, *, is_final: bool = False) -> PackedBatch | Shortfall:
        """The batch `plan_number`, packed; raises what `plan` raises."""
        plan = self.plan(plan_number, learner, is_final=is_final)
        return plan if isinstance(plan, Shortfall) else self.pack(plan)

    def plan(
        self,
        plan_number: int,
        learner: PolicyVersion,
        *,
        is_final: bool = False,
        others: Sequence[HeldGroups] = (),
    ) -> BatchPlan | Shortfall:
        """The plan `plan_number`: the logged one, or else a new one, which is durable before this returns.

        `others` are the groups of other shards, as these offered them for this batch.

        Raises:
            RefusedError: the number is neither logged nor next, its payload is gone, or the learner is of a lost
                lineage.
            StorageError: the plan could not be logged; nothing was changed.
        """
        buffer = self.buffer
        self.follow(learner)
        if plan_number <= buffer.last_plan:
            return self._logged(plan_number, learner)
        if plan_number != buffer.last_plan + 1:
            raise RefusedError(f"batch {plan_number} was asked for, but the next one is {buffer.last_plan + 1}")
        self._put_in_force(buffer.evict(learner))
        change = buffer.plan(plan_number, learner, is_final=is_final, others=others)
        if isinstance(change, Shortfall):
            return change
        self._put_in_force(change)
        assert change.plan is not None
        return change.plan

    def follow(self, learner: PolicyVersion) -> None:
        """Note the learner's incarnation, which may be a new one.

        Raises:
            RefusedError: the learner is of a lost lineage.
        """
        known = self.buffer.lineage.incarnation
        if learner.incarnation < known:
            raise RefusedError(f"learner version {learner} is of a lost lineage; incarnation {known} took over")
        if learner.incarnation > known:
            self._put_in_force(self.buffer.fork(learner.incarnation))

    def pack(self, plan: BatchPlan, others: Iterable[Group] = ()) -> PackedBatch:
        """Fill a plan's rows with the tokens of its groups; `others` are the groups that other shards keep.

        Raises:
            StorageError: a payload is damaged.
        """
        group_ids = dict.fromkeys(split_id(sequence.trajectory_id)[0] for sequence in plan.sequences)
        with self.store.read() as reader:
            own = (group for group_id in group_ids if (group := reader.group(group_id)) is not None)
            return pack_batch(plan, chain(own, others), self.buffer.lineage)

    # -- one shard among several: another one plans

    def offer(
        self,
        plan_number: int,
        learner: PolicyVersion,
        lineage: Lineage,
        epoch_rules: Mapping[str, EpochRules],
        since: OfferMark,
    ) -> Offer | None:
        """What has changed since a mark in the groups that batch `plan_number` may take from, after eviction at that
        version; None: earlier plans are missing.

        Until that plan is consumed here, no offered trajectory ends.

        Raises:
            RefusedError: this shard has consumed a plan that the planner does not know.
        """
        if self.buffer.last_plan >= plan_number:
            raise RefusedError(
                f"batch {plan_number} cannot be planned: batch {self.buffer.last_plan} was consumed here"
            )
        if self.buffer.last_plan != plan_number - 1:
            return None
        if lineage != self.buffer.lineage:
            self._put_in_force(Change({}, lineage=lineage))
        self.bar(epoch_rules)
        self._put_in_force(self.buffer.evict(learner))
        return self.buffer.offer(since)

    def consume(self, part: PlanPart) -> None:
        """Durably record the tokens that a logged plan takes from this shard's groups.

        A part that is not of the next plan changes nothing: this shard followed it before, or must follow others first.

        Raises:
            RefusedError: the part takes tokens that are not open here.
        """
        if part.plan_number != self.buffer.last_plan + 1:
            return
        taken = [(*split_id(trajectory_id), num_tokens) for trajectory_id, num_tokens in part.taken]
        try:
            change = self.buffer.advance(part.plan_number, taken, part.max_reuse, carries=part.carries)
        except (KeyError, ValueError) as error:
            raise RefusedError(f"batch {part.plan_number} cannot be followed: {error}") from error
        self._put_in_force(change)

    def tokens(self, part: PlanPart) -> list[Buffer]:
        """The groups that a plan takes from, as one bundle.

        Raises:
            RefusedError: a payload is gone.
            StorageError: a payload is damaged.
        """
        group_ids = dict.fromkeys(split_id(trajectory_id)[0] for trajectory_id, _ in part.taken)
        with self.store.read() as reader:
            groups = [reader.group(group_id) for group_id in group_ids]
            gone = [group_id for group_id, group in zip(group_ids, groups, strict=True) if group is None]
            if gone:
                raise RefusedError(
                    f"batch {part.plan_number}: the payload of {gone[0]} is gone; a checkpoint covers it"
                )
            return bundle([group for group in groups if group is not None])

    def parts_after(self, plan_number: int, is_kept: Callable[[str], bool], limit: int) -> list[PlanPart]:
        """The parts of the next plans for a shard that knows plans up to `plan_number` and keeps the groups of
        `is_kept`.
        """
        with self.store.read() as reader:
            return [plan_part(entry, is_kept) for entry in islice(reader.plans_after(plan_number), limit)]

    def cover(self, plan_number: int) -> None:
        """Note that a checkpoint covers all batches up to `plan_number`; the next `put` releases payloads only they
        needed.

        Deletions in the commit of new groups cost no sync of their own, and their pages are used again at once.
        """
        self._cover_wanted = max(self._cover_wanted, min(plan_number, self.buffer.last_plan))

    def flush(self) -> None:
        """Release payloads that only covered batches needed, without waiting for the next `put`."""
        if self._cover_wanted:
            self._put_in_force(self.buffer.cover(self._cover_wanted))
            self._cover_wanted = 0
            self.history.fold(self.buffer)

    def tune(self, rules: BufferRules) -> None:
        """Change the rules of the decisions to come.

        Raises:
            ConfigError: no batch could ever be filled under them; the old rules stay.
        """
        self.buffer.tune(rules)

    # -- what the controller must hear

    def unheard_after(self, number: int) -> list[tuple[int, tuple[TrajectoryState, ...]]]:
        """The reports after `number` that the controller has not acknowledged, in order."""
        return sorted((n, states) for n, states in self.unheard.items() if n > number)

    def heard(self, numbers: Iterable[int]) -> None:
        """Note that the controller stored these reports durably; the next commit deletes them."""
        for number in numbers:
            if self.unheard.pop(number, None) is not None:
                self._heard.append(number)

    def present_states(self) -> tuple[TrajectoryState, ...]:
        """The state of every trajectory held, for a controller that restarted."""
        return tuple(
            state
            for group_id in self.buffer.group_ids()
            for state in states_of(self.buffer.record(group_id).header, self.buffer.progress(group_id))
        )

    def close(self) -> None:
        self.partials.close()
        self.store.close()

    # -- parts

    def _unheard_floor(self) -> int:
        with self.store.read() as reader:
            return int(reader.meta("unheard_floor", INTEGER, 0))

    def _commit(self, writes: Writes, moved: Sequence[TrajectoryState]) -> None:
        """Commit durably, together with the report that the controller must get."""
        reports = dict(enumerate(in_portions(moved), start=self._next_unheard))
        if reports:
            writes.unheard = reports
            writes.meta = {**writes.meta, "unheard_floor": max(reports)}
        writes.heard, writes.at_plan = tuple(self._heard), self.buffer.last_plan
        self.store.commit(writes)
        self._heard.clear()
        self.counters["commits"] += 1
        for (state, cause), num in Counter(map(_state_and_cause, moved)).items():
            self.counters[str(state)] += num
            if cause:
                self.counters[f"{state}_{cause}"] += num
        self.unheard |= reports
        self._next_unheard += len(reports)

    def _put_in_force(self, change: Change) -> None:
        if change.is_empty:
            return
        self._commit(self._writes(change), change.moved)
        self.buffer.apply(change)

    def _writes(
        self, change: Change, puts: Sequence[StoredGroup] = (), ended: Mapping[str, GroupProgress] | None = None
    ) -> Writes:
        meta: dict[str, object] = {}
        if change.covered is not None:
            meta["covered"] = change.covered
        if change.lineage is not None:
            meta["lineage"] = change.lineage
        if change.epoch_rules is not None:
            meta["epoch_rules"] = change.epoch_rules
        plans: tuple[PlanEntry, ...] = ()
        if change.plan_number is not None:
            meta["last_plan"] = change.plan_number
            plans = (change.entry,) if change.entry else ()
        return Writes(puts, change.progress, ended or {}, change.released, plans, meta=meta)

    def _logged(self, plan_number: int, learner: PolicyVersion) -> BatchPlan:
        if plan_number <= self.buffer.covered:
            raise RefusedError(
                f"batch {plan_number} is covered by a checkpoint and its payload is gone; resume the learner from a "
                f"checkpoint that covers batch {self.buffer.covered}"
            )
        with self.store.read() as reader:
            entry = reader.plan(plan_number)
        assert entry is not None, f"plan {plan_number} is missing from the log"
        if learner.number != entry.plan.policy_version.number:
            raise RefusedError(
                f"batch {plan_number} was planned at version {entry.plan.policy_version}, asked for at {learner}"
            )
        if learner != entry.plan.policy_version and learner not in entry.replayed_as:
            entry = msgspec.structs.replace(entry, replayed_as=(*entry.replayed_as, learner))
            self._commit(Writes(plans=(entry,)), ())
        return msgspec.structs.replace(entry.plan, policy_version=learner)

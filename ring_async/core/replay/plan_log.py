"""The log of batch plans, and the proof of its rules.

Owns: the logged form of a plan and the proof over a whole log: exact budgets, no token trained too often, none too
stale. Does not own reading or writing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from ring_async.batches import BatchPlan, PackedSequence
from ring_async.core.ids import split_id
from ring_async.core.staleness import Lineage, StalenessMeasure, staleness
from ring_async.types import EpochRules, PolicyVersion, Segment


class Violation(NamedTuple):
    """One broken rule, and the id that breaks it."""

    rule: str
    subject: str
    detail: str


class PlanEntry(msgspec.Struct, frozen=True):
    """A logged batch plan, with the data to check it after payloads were deleted.

    Attributes:
        loss_tokens: of each planned sequence's interval, in the plan's order.
        segments: of each planned sequence's response.
        carries: whether the remainder of a cut response stays to be trained.
        scored_by: verifier and epoch of each planned sequence.
        epoch_rules: which epochs could be trained on.
        replayed_as: the learner's versions under which the plan was handed out again after a crash.
    """

    plan: BatchPlan
    max_staleness: int
    staleness_measure: StalenessMeasure
    max_reuse: int
    lineage: Lineage
    loss_tokens: tuple[int, ...]
    segments: tuple[tuple[Segment, ...], ...]
    carries: bool = True
    scored_by: tuple[tuple[str, int], ...] = ()
    epoch_rules: dict[str, EpochRules] = {}
    replayed_as: tuple[PolicyVersion, ...] = ()


class PlanPart(msgspec.Struct, frozen=True):
    """The part of a plan that concerns one shard.

    Attributes:
        taken: the shard's trajectories in the plan, with the loss tokens taken of each; may be empty.
    """

    plan_number: int
    taken: tuple[tuple[str, int], ...]
    max_reuse: int
    carries: bool


def plan_part(entry: PlanEntry, is_kept: Callable[[str], bool]) -> PlanPart:
    """The part of a plan for the shard that keeps the groups for whose id `is_kept` holds."""
    taken = tuple(
        (sequence.trajectory_id, num_tokens)
        for sequence, num_tokens in zip(entry.plan.sequences, entry.loss_tokens, strict=True)
        if is_kept(split_id(sequence.trajectory_id)[0])
    )
    return PlanPart(entry.plan.plan_number, taken, entry.max_reuse, entry.carries)


class Consumption(msgspec.Struct):
    """How far the logged plans trained one trajectory.

    Attributes:
        cursor: where the next interval of the present pass must begin.
        num_passes: passes over the whole response.
        max_reuse: the largest bound in force when one of its plans was made.
    """

    num_tokens: int
    cursor: int = 0
    num_passes: int = 0
    last_plan: int = 0
    max_reuse: int = 1


class FoldedPlans(msgspec.Struct, frozen=True):
    """What the first `num_plans` plans of a log proved, after their entries were deleted.

    Attributes:
        max_staleness: the largest bound in force for one of them.
        consumed: of the trajectories that a later plan may still use.
    """

    num_plans: int
    num_loss_tokens: int
    max_staleness_seen: int
    max_staleness: int
    num_replayed: int
    consumed: dict[str, Consumption]
    violations: list[Violation]


class PlanLog:
    """Reads plans in order and collects violations of the log's rules.

        log = PlanLog()
        log.read(entries)                   # log.violations names what is wrong with them
        PlanLog(log.folded()).read(later)   # goes on as if the first entries were there

    Args:
        folded: what earlier plans proved, if their entries are gone.
    """

    def __init__(self, folded: FoldedPlans | None = None) -> None:
        self.violations = list(folded.violations) if folded else []
        self.consumed = dict(folded.consumed) if folded else {}
        self.num_plans = self.num_folded = folded.num_plans if folded else 0
        self.num_loss_tokens = folded.num_loss_tokens if folded else 0
        self.max_staleness_seen = folded.max_staleness_seen if folded else 0
        self.num_replayed = folded.num_replayed if folded else 0
        self._max_staleness = folded.max_staleness if folded else 0

    def folded(self) -> FoldedPlans:
        """The summary of all plans read.

        A plan n trains versions below n, and no plan after n + `max_staleness` may: what such a plan was the last to
        use is not needed again.
        """
        horizon = self.num_plans - self._max_staleness
        return FoldedPlans(
            num_plans=self.num_plans,
            num_loss_tokens=self.num_loss_tokens,
            max_staleness_seen=self.max_staleness_seen,
            max_staleness=self._max_staleness,
            num_replayed=self.num_replayed,
            consumed={key: one for key, one in self.consumed.items() if one.last_plan > horizon},
            violations=self.violations,
        )

    def read(self, entries: Iterable[PlanEntry]) -> None:
        for entry in entries:
            self._check_plan(entry)
            for place in range(len(entry.plan.sequences)):
                self._check_sequence(entry, place)

    def _check_plan(self, entry: PlanEntry) -> None:
        plan = entry.plan
        subject = f"plan {plan.plan_number}"
        self.num_plans += 1
        self._max_staleness = max(self._max_staleness, entry.max_staleness)
        if plan.plan_number != self.num_plans:
            self._found("plan numbers have no gap", subject, f"expected {self.num_plans}")
            self.num_plans = plan.plan_number
        total = sum(entry.loss_tokens)
        self.num_loss_tokens += total
        self.num_replayed += bool(entry.replayed_as)
        if total != plan.token_budget and not (plan.is_final and total < plan.token_budget):
            self._found("a batch holds exactly Φ loss tokens", subject, f"{total:,} of {plan.token_budget:,}")

    def _check_sequence(self, entry: PlanEntry, place: int) -> None:
        plan = entry.plan
        sequence = plan.sequences[place]
        subject = f"{sequence.trajectory_id} in plan {plan.plan_number}"
        age = staleness(plan.policy_version, entry.segments[place], entry.lineage, entry.staleness_measure)
        oldest = staleness(plan.policy_version, entry.segments[place], entry.lineage)
        self.max_staleness_seen = max(self.max_staleness_seen, age)
        if age > entry.max_staleness:
            self._found("nothing is trained beyond max_staleness", subject, f"{age} > {entry.max_staleness}")
        if oldest != sequence.staleness:
            self._found("a plan states the staleness it has", subject, f"{sequence.staleness}, its tokens say {oldest}")
        interval = sequence.interval
        if not 0 <= interval.start < interval.end <= sequence.num_response_tokens:
            self._found("an interval lies within its response", subject, f"[{interval.start}, {interval.end})")
        if not 0 < entry.loss_tokens[place] <= interval.end - interval.start:
            self._found("an interval carries loss", subject, f"{entry.loss_tokens[place]} loss tokens")
        if place < len(entry.scored_by):
            verifier, epoch = entry.scored_by[place]
            if verifier in entry.epoch_rules and not entry.epoch_rules[verifier].admits(epoch):
                self._found("no batch holds verdicts of a barred epoch", subject, f"{verifier}, epoch {epoch}")
        self._follow(sequence, entry, subject)

    def _follow(self, sequence: PackedSequence, entry: PlanEntry, subject: str) -> None:
        """Check that a trajectory's intervals follow each other without gap or overlap; a full pass is one use."""
        trained = self.consumed.setdefault(sequence.trajectory_id, Consumption(sequence.num_response_tokens))
        trained.max_reuse = max(trained.max_reuse, entry.max_reuse)
        trained.last_plan = entry.plan.plan_number
        interval = sequence.interval
        if interval.start != trained.cursor:
            what = "trained twice" if interval.start < trained.cursor else "skipped"
            low, high = sorted((interval.start, trained.cursor))
            self._found("intervals tile a response", subject, f"tokens [{low}, {high}) are {what}")
        trained.cursor = interval.end
        if trained.cursor >= sequence.num_response_tokens:
            trained.cursor = 0
            trained.num_passes += 1
        if trained.num_passes + bool(trained.cursor) > trained.max_reuse:
            self._found("no token is trained more than max_reuse times", subject, f"bound {trained.max_reuse}")

    def _found(self, rule: str, subject: str, detail: str) -> None:
        self.violations.append(Violation(rule, subject, detail))

"""The proof, from disk alone, that no trajectory is unaccounted for.

Owns: reading a run's journal and replay stores, and checking them against each other. Changes nothing; works after any
crash and after the end. While processes write, journal and stores are read at slightly different moments, and states
that move in between show as differences.

What is proven: reserved = sum of the states; every trajectory that replay holds or held is in the same state in the
ledger, reports under way included; nothing acknowledged is missing; batches hold exactly Φ loss tokens; no token is
trained more than `max_reuse` times, none skipped, none beyond `max_staleness`; one verifier epoch scored each group;
payloads that a learner's restart would need are there, and their checksums hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ring_async.core.ids import split_id, trajectory_id_for
from ring_async.core.replay.plan_log import PlanLog, Violation
from ring_async.core.replay.progress import GroupProgress, GroupRecord, num_loss_tokens
from ring_async.core.work.ledger import Ledger, LedgerError
from ring_async.core.work.ledger_records import StatesMoved
from ring_async.errors import NotARunError, StorageError
from ring_async.storage.journal import damaged_files
from ring_async.storage.journal_file import journal_files
from ring_async.storage.journal_recovery import read_back
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir
from ring_async.storage.store_history import folded_until, num_groups_forgotten, proven_plans
from ring_async.storage.store_reader import INTEGER, StoreReader
from ring_async.trajectory_states import END_STATES, HELD_STATES, TrajectoryStatus

STORED_TWICE: Final = "a group lies in one shard"
STORED_AND_ENDED: Final = "a group is stored or ended, not both, in one shard"
MAX_SHOWN = 20


@dataclass(slots=True)
class AuditReport:
    """The result of an audit: what was checked, and the violations."""

    run_dir: Path
    counts: dict[str, int] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def to_plain(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "run_dir": str(self.run_dir),
            "is_clean": self.is_clean,
            "counts": self.counts,
            "causes": self.causes,
            "figures": self.figures,
            "notes": self.notes,
            "violations": [violation._asdict() for violation in self.violations],
        }

    def to_text(self) -> str:
        """The report as text for people: the counts, then the violations."""
        lines = [f"{self.run_dir}: {'clean' if self.is_clean else f'{len(self.violations)} VIOLATIONS'}"]
        lines += [f"  {name:<24}{count:>12,}" for name, count in (self.counts | self.figures).items()]
        lines += [f"    {cause:<32}{count:>12,}" for cause, count in sorted(self.causes.items())]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {rule}: {subject}: {detail}" for rule, subject, detail in self.violations[:MAX_SHOWN]]
        if len(self.violations) > MAX_SHOWN:
            lines.append(f"  … and {len(self.violations) - MAX_SHOWN} more (--json lists all)")
        return "\n".join(lines)

    def found(self, rule: str, subject: str, detail: str = "") -> None:
        self.violations.append(Violation(rule, subject, detail))


@dataclass(slots=True)
class _Held:
    """The trajectories that all shards hold or held."""

    stored: dict[str, tuple[GroupRecord, GroupProgress]] = field(default_factory=dict)
    ended: dict[str, GroupProgress] = field(default_factory=dict)
    unheard: list[StatesMoved] = field(default_factory=list)
    shards: dict[str, Path] = field(default_factory=dict)
    """The store of each group."""
    last_plans: dict[Path, int] = field(default_factory=dict)
    """The newest plan that each store has followed; the planner's store has the newest of all."""
    covered: int = 0
    log: PlanLog = field(default_factory=PlanLog)
    """The plans of all stores: those of the planner's."""
    planner: Path = Path()
    """The store that `log` was read from."""
    forgotten_until: int = 0
    num_forgotten: int = 0
    """Groups that ended up to that plan are only counted any more."""


def audit(run_dir: Path, *, with_payloads: bool = True) -> AuditReport:
    """Check a run's folder. `with_payloads` also reads every stored group and proves its checksum.

    Raises:
        NotARunError: the folder holds neither a journal nor a replay store.
        StorageError: a store or the journal cannot be read at all.
    """
    report = AuditReport(run_dir)
    held = _Held()
    files = RunDir(run_dir)
    stores = sorted(path.parent for path in files.replay.glob("*/data.mdb"))
    if not stores and not journal_files(files.journal) and not damaged_files(files.journal):
        raise NotARunError(f"{run_dir}: nothing to audit: it holds no {files.journal.name}/*.log and no replay store")
    for path in stores:
        try:
            _read_store(path, held, report, with_payloads=with_payloads)
        except StorageError as error:
            report.found("the replay store can be read back", path.name, str(error))
    if not stores:
        report.notes.append(f"no replay store in {files.replay}")
    log = held.log
    report.violations += log.violations
    is_complete = len(held.last_plans) == len(stores)
    if is_complete:
        _check_consumption(held, log, _logs_followed(held), report)
    else:
        report.notes.append("what was trained and the ledger are not compared: a store could not be read back")
    if not journal_files(files.journal):
        report.notes.append(f"no journal in {files.journal}: states are not compared with the ledger")
    else:
        ledger = _read_ledger(files.journal, report)
        if is_complete:
            _check_ledger(ledger, held, report)
    report.figures = {
        "groups stored": len(held.stored),
        "groups ended": len(held.ended) + held.num_forgotten,
        "batches planned": log.num_plans,
        "batches covered": held.covered,
        "batches replayed": log.num_replayed,
        "loss tokens planned": log.num_loss_tokens,
        "largest staleness": log.max_staleness_seen,
        "reports under way": len(held.unheard),
    }
    return report


def _read_store(path: Path, held: _Held, report: AuditReport, *, with_payloads: bool) -> None:
    with _opened(path, is_thorough=with_payloads) as reader:
        for record, progress in reader.records():
            group_id = record.header.group_id
            if group_id in held.stored:
                report.found(STORED_TWICE, group_id, str(path))
            held.stored[group_id] = (record, progress)
            held.shards[group_id] = path
            if with_payloads:
                _check_payload(reader, record, report)
        for group_id, progress in reader.all_ended():
            if group_id in held.stored or group_id in held.ended:
                report.found(STORED_AND_ENDED, group_id, str(path))
            held.ended[group_id] = progress
            held.shards[group_id] = path
        held.unheard += [StatesMoved(states) for _, states in reader.unheard()]
        held.covered = max(held.covered, reader.meta("covered", INTEGER, 0))
        held.forgotten_until = max(held.forgotten_until, folded_until(reader))
        held.num_forgotten += num_groups_forgotten(reader)
        log = proven_plans(reader)
        log.read(reader.plans_after(log.num_folded))
        if log.num_plans > held.log.num_plans:
            held.log, held.planner = log, path
        held.last_plans[path] = reader.meta("last_plan", INTEGER, 0)


def _logs_followed(held: _Held) -> dict[Path, PlanLog]:
    """Check the plan log as far as each store has followed it; a shard that died follows the rest after its restart."""
    logs = dict.fromkeys(held.last_plans, held.log)
    for path, last_plan in held.last_plans.items():
        if last_plan < held.log.num_plans:
            with _opened(held.planner) as reader:
                logs[path] = followed = proven_plans(reader)
                followed.read(e for e in reader.plans_after(followed.num_folded) if e.plan.plan_number <= last_plan)
    return logs


@contextlib.contextmanager
def _opened(path: Path, *, is_thorough: bool = False) -> Iterator[StoreReader]:
    store = ReplayStore(path, (path / "data.mdb").stat().st_size, is_readonly=True, is_thorough=is_thorough)
    try:
        with store.read() as reader:
            yield reader
    finally:
        store.close()


def _check_payload(reader: StoreReader, record: GroupRecord, report: AuditReport) -> None:
    group_id = record.header.group_id
    if record.header.verifier is None or any(
        one.reward is None and not one.failure for one in record.header.trajectories
    ):
        report.found("one verifier epoch scored the whole group", group_id)
    try:
        group = reader.group(group_id)
        if group is None:
            report.found("a stored group can be read", group_id)
    except (StorageError, ValueError) as error:
        report.found("a stored payload is whole", group_id, str(error))


def _check_consumption(held: _Held, log: PlanLog, followed: dict[Path, PlanLog], report: AuditReport) -> None:
    """Check that the plan log and the progress of trajectories agree, as far as each shard has followed the log."""
    last_plan = max(held.last_plans.values(), default=0)
    if log.num_plans != last_plan:
        report.found("every plan is in the log", "plans", f"{log.num_plans} logged, the last was {last_plan}")
    for group_id, progress in [*((g, p) for g, (_, p) in held.stored.items()), *held.ended.items()]:
        for index, one in enumerate(progress):
            trajectory_id = trajectory_id_for(group_id, index)
            trained = followed[held.shards[group_id]].consumed.get(trajectory_id)
            planned = log.consumed.get(trajectory_id)
            if trained is None and 0 < one.last_plan <= log.num_folded:
                continue  # its plans are folded: they were proven when they were
            if planned and planned.last_plan > held.last_plans[held.shards[group_id]] and not one.is_open:
                report.found("a logged plan can be followed", trajectory_id, f"it is {one.state}")
            if (trained is not None) != (one.last_plan > 0):
                report.found("progress follows from the plan log", trajectory_id, f"state {one.state}")
            if trained is None:
                if one.state in (TrajectoryStatus.CONSUMED, TrajectoryStatus.RETIRED):
                    report.found("what counts as trained is in a plan", trajectory_id, one.state)
                continue
            if (trained.num_passes, trained.last_plan) != (one.num_uses, one.last_plan):
                report.found("progress follows from the plan log", trajectory_id, f"{trained} against {one}")
            if trained.cursor and not trained.num_passes and one.state == TrajectoryStatus.RETIRED:
                report.found("carry loses no token", trajectory_id, f"tokens from {trained.cursor} were never trained")
    for trajectory_id, trained in log.consumed.items():
        group_id, index = split_id(trajectory_id)
        if group_id not in held.stored:
            if group_id not in held.ended and trained.last_plan > held.forgotten_until:
                report.found("a trained trajectory is accounted for", trajectory_id)
            elif trained.last_plan > held.covered:
                report.found("payloads are kept until a checkpoint covers them", trajectory_id)
        elif trained.cursor:
            record, progress = held.stored[group_id]
            if progress[index].position > num_loss_tokens(record, index):
                report.found("progress follows from the plan log", trajectory_id, "position beyond its loss tokens")


def _read_ledger(folder: Path, report: AuditReport) -> Ledger:
    ledger = Ledger()
    found = read_back(journal_files(folder), ledger)
    for path in damaged_files(folder):
        report.found("the journal is whole", path.name, "this file could not be read back whole, and was set aside")
    for part in found.damage:
        report.found("the journal is whole", part.path.name, str(part))
    for impossible in found.impossible:
        report.found("every journal record is possible", "journal", impossible)
    if found.torn_bytes:
        report.notes.append(f"{found.torn_bytes} bytes at the journal's end are a record that is not finished")
    return ledger


def _check_ledger(ledger: Ledger, held: _Held, report: AuditReport) -> None:
    """Prove that the ledger adds up, and agrees with replay once it has heard the reports under way."""
    report.counts, report.causes = ledger.counts(), ledger.causes()
    try:
        ledger.check()
    except LedgerError as error:
        report.found("reserved = sum of the states", "ledger", str(error))
    for moved in held.unheard:
        try:
            ledger.apply(moved)
        except LedgerError as error:
            report.found("reports fit the ledger", "ledger", str(error))
    for group_id, progress in [*((g, p) for g, (_, p) in held.stored.items()), *held.ended.items()]:
        for index, one in enumerate(progress):
            said = ledger.state_of(trajectory_id_for(group_id, index))
            if said is None and one.state in END_STATES:
                continue  # ended so long ago that the ledger only counts it
            if said != one.state:
                report.found(
                    "ledger and replay agree", trajectory_id_for(group_id, index), f"{said} against {one.state}"
                )
    for group_id, group in ledger.live.items():
        lost = [state for state in group.states if state in HELD_STATES]
        if lost and group_id not in held.stored:
            report.found("nothing acknowledged is missing", group_id, f"{len(lost)} trajectories in state {lost[0]}")
    if ledger.counts()["adopted"]:
        report.found("everything that replay holds was reserved", "ledger", f"{ledger.counts()['adopted']} were not")

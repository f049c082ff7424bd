"""The dispatcher: it grants groups to rollouts and keeps a durable account of what became of them.

    PromptScheduler ──new groups──▶ ┌────────────┐ ──records──▶ Journal (ledger)
    returned  ──reissued──────────▶ │ Dispatcher │ ──Reservation──▶ rollouts
    AdmissionLimiter ──how many───▶ └────────────┘ ◀──what became of them── replay, reward

Owns: the prompt scheduler, the leases and the limiter (others may query and steer these directly), and their agreement
with the journal. Does not own the journal, the fleet or the network.
Invariant: a reservation is durable before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from ring_async.actors.controller.prompts import MakeSource, PromptScheduler
from ring_async.clock import monotonic_s
from ring_async.config.schema import Config, SourceSection
from ring_async.core.ids import split_id
from ring_async.core.roster import Role
from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules, AdmissionState, Grant
from ring_async.core.work.difficulty import Window, observed_difficulty
from ring_async.core.work.leases import LeaseTable, Returned
from ring_async.core.work.ledger_records import GroupReissued, GroupReserved, GroupReturned, Noted, StatesMoved
from ring_async.errors import StorageError
from ring_async.records.figures import BufferTotals, total
from ring_async.storage.journal import Journal
from ring_async.telemetry import metrics
from ring_async.trajectory_states import EndCause, TrajectoryState, TrajectoryStatus
from ring_async.transport.messages.work import BufferReported
from ring_async.types import PolicyVersion, Reservation

log = logging.getLogger(__name__)

_learnt_decoder = msgspec.msgpack.Decoder(AdmissionState)


class Dispatcher:
    """Grants groups to rollouts and takes back the groups they cannot deliver.

        grant = dispatcher.grantable(PolicyVersion(0, 7))     # Grant(3)
        dispatcher.issue([actor_id] * grant.num_groups)[actor_id]     # their reservations
        dispatcher.moved(states)     # replay holds these groups durably: their leases end

    Args:
        config: of the run.
        make_source: builds a prompt source from its name and section.
        journal: receives every grant and every outcome.
        is_resumed: whether to go on from the journal's content.
        is_fleet_alive: whether the fleet of this journal runs already, because only the controller restarted. Then its
            rollouts keep their groups; see `adopt`.
    """

    def __init__(
        self,
        config: Config,
        make_source: MakeSource,
        journal: Journal,
        *,
        is_resumed: bool,
        is_fleet_alive: bool = False,
    ) -> None:
        self.prompts = PromptScheduler(config, make_source)
        self.leases = LeaseTable()
        self._journal = journal
        state = self._restore(is_fleet_alive=is_fleet_alive) if is_resumed else AdmissionState()
        self.limiter = AdmissionLimiter(admission_rules(config), state)
        self._buffer: dict[str, BufferTotals] = {}
        shards = {actor_id for actor_id, role in config.roster.actors() if role == Role.REPLAY}
        self._unreported = shards if is_resumed else set()
        """Shards whose content is not known yet, so that the limit on what may be generated is not either."""

    # -- granting

    def grantable(self, policy_version: PolicyVersion | None) -> Grant:
        """How many groups a rollout with this version may get now, or why it gets none."""
        if self._unreported:
            return Grant(0, f"{', '.join(sorted(self._unreported))}: content not reported yet")
        grant = self.limiter.grantable(self.leases.num_open, policy_version)
        if grant.num_groups and not self.leases.num_waiting and (reason := self.prompts.why_none()):
            return Grant(0, reason)
        return grant

    def issue(self, owners: Iterable[str]) -> dict[str, list[Reservation]]:
        """Reserve a group for each of `owners`, in order: first groups that came back, then new prompts while there are
        any. All of one call share one sync of the journal. Returns the reservations of each owner.

        Raises:
            StorageError: the journal cannot be written; the groups are issued by a later call.
        """
        now_s = monotonic_s()
        not_ready: set[str] = set()
        issued: list[Reservation] = []
        issued_to: dict[str, list[Reservation]] = {}
        records: list[Any] = []
        for owner in owners:
            again = self.leases.next_again()
            reservation, attempt = again or (self.prompts.next(not_ready), 1)
            if reservation is None:
                break
            self.leases.issue(reservation, owner, now_s, attempt)
            if reservation.group_id in self._journal.ledger.live:
                records.append(GroupReissued(reservation.group_id, owner))
            else:
                records.append(GroupReserved(reservation, owner))
            issued.append(reservation)
            issued_to.setdefault(owner, []).append(reservation)
        if records:
            try:
                self._journal.append(*records, *self._accounts())
            except StorageError:
                self.leases.withdraw(issued)
                raise
        for reservation in issued:
            metrics.controller_reservations.labels(source=reservation.prompt.source).inc()
        return issued_to

    # -- changes while the run goes on

    def set_mixture(self, weights: Mapping[str, float], windows: Mapping[str, Window | None] | None = None) -> None:
        """Durably put new weights and windows in force; see `PromptScheduler.set_mixture`.

        Raises:
            StorageError: the journal cannot be written; nothing was changed.
        """
        self._journal.append(Noted("prompts", self.prompts.snapshot()))  # is there room at all?
        self.prompts.set_mixture(weights, windows)
        self._journal.hold(Noted("prompts", self.prompts.snapshot()))

    def tune(self, config: Config) -> None:
        """Apply a changed configuration to admission and sampling, from the next reservation on.

        Raises:
            ConfigError: admission could come to a standstill under this configuration.
        """
        self.limiter.tune(**msgspec.structs.asdict(admission_rules(config)))
        self.prompts.tune(config)

    # -- a fleet that outlived its controller

    def adopt(self, owner: str, group_ids: Collection[str]) -> list[Returned]:
        """Compare the leases of a rollout that registers with the groups it holds: it keeps these, and the others come
        back, to be issued again. Returns the groups given up for good.
        """
        return self._take_back(self.leases.keep_held(owner, group_ids, "not_held"))

    def keep_owners(self, living: Collection[str]) -> None:
        """Take back the groups of every owner that is not part of the fleet any more."""
        for owner in self.leases.owners() - set(living):
            self.owner_lost(owner)

    # -- what became of it

    def give_back(self, group_ids: Iterable[str], cause: str, *, owner: str, detail: str = "") -> list[Returned]:
        """Take back groups that failed at the owner of their leases; returns the groups given up for good."""
        return self._take_back(self.leases.give_back(group_ids, cause, owner=owner, detail=detail))

    def drop(self, group_id: str, *, owner: str) -> Reservation | None:
        """Durably drop a group whose prompt no engine can take; None if `owner` does not hold it."""
        reservation = self.leases.drop(group_id, owner)
        if reservation is not None:
            self.prompts.mixture.completed(reservation.prompt.source, 0)
            self._journal.hold(GroupReturned(group_id, EndCause.PROMPT_REFUSED, is_dropped=True))
        return reservation

    def owner_lost(self, owner: str) -> list[Returned]:
        """Take back every group of a lost rollout; returns the groups given up for good."""
        return self._take_back(self.leases.owner_lost(owner, "owner_lost"))

    def expire(self) -> list[Returned]:
        """Take back groups whose leases ran out; returns the groups given up for good."""
        return self._take_back(self.leases.expire(monotonic_s()))

    def moved(self, states: tuple[TrajectoryState, ...]) -> None:
        """Record the states that replay reports. Replay holds these trajectories durably, so their reservations end.

        Raises:
            LedgerError: a transition that cannot happen; nothing was changed.
            StorageError: the journal cannot be written; the same call may succeed once there is space.
        """
        by_group: dict[str, list[TrajectoryState]] = {}
        for state in states:
            by_group.setdefault(split_id(state.trajectory_id)[0], []).append(state)
        record = StatesMoved(states)
        self._journal.ledger.check_record(record)
        has_completed = False
        observed: list[Noted] = []
        for group_id, moved in by_group.items():
            held = self.leases.complete(group_id)
            if held is not None:
                has_completed = True
                num_tokens = sum(state.num_tokens for state in moved)
                has_signal = any(state.state in {"buffered", "consumed"} for state in moved)
                self.prompts.mixture.completed(held.reservation.prompt.source, num_tokens)
                self.prompts.served.worked(held.reservation.prompt.source)
                self.limiter.observe_group(num_tokens, has_signal=has_signal)
                judged = [state.reward for state in moved if state.state != TrajectoryStatus.FAILED]
                difficulty = observed_difficulty(judged)
                if (seen := self.prompts.observed(held.reservation, difficulty)) is not None:
                    observed.append(Noted(*seen))
        notes = (*observed, *(self._accounts() if has_completed else ()))
        try:
            self._journal.append(record, *notes)
        except StorageError:
            self._journal.hold(*notes)  # these leases have ended: the next call finds nothing more to note
            raise

    # -- what replay holds

    def observe_buffer(self, shard: str, report: BufferReported) -> None:
        """Record a replay shard's report of its content."""
        self._buffer[shard] = report.totals
        self._unreported.discard(shard)
        held = self.buffer_totals()
        self.limiter.observe_buffer(
            held.buffer_tokens, held.next_plan_number, is_learner_waiting=held.is_learner_waiting
        )

    def buffer_totals(self) -> BufferTotals:
        """The totals over the last reports of all replay shards."""
        return total(self._buffer.values())

    # -- parts

    def _accounts(self) -> tuple[Noted, Noted]:
        """The state that a resumed run needs: cursors, mixture, and the limiter's running means."""
        return Noted("prompts", self.prompts.snapshot()), Noted("limiter", msgspec.to_builtins(self.limiter.state))

    def _take_back(self, returned: list[Returned]) -> list[Returned]:
        failed = [back for back in returned if back.is_failed]
        for back in returned:
            metrics.controller_reissued.labels(cause=back.cause).inc()
            group_id = back.reservation.group_id
            log.info("group %s came back from %s: %s %s", group_id, back.owner, back.cause, back.detail)
        for back in failed:
            self.prompts.mixture.completed(back.reservation.prompt.source, 0)
            self._journal.hold(GroupReturned(back.reservation.group_id, back.cause))
        return failed

    def _restore(self, *, is_fleet_alive: bool) -> AdmissionState:
        """Restore the journal's state: cursors, and groups that were under way.

        These stay with their owners if the fleet is alive; otherwise they are issued again in their old order.
        """
        ledger = self._journal.ledger
        notes = ledger.notes
        for name, section in notes.get("sources", {}).items():
            self.prompts.add_source(name, SourceSection.model_validate(section))
        if "prompts" in notes:
            self.prompts.restore(notes["prompts"], notes)
        under_way = [(g.reservation, g.owner) for g in ledger.live.values() if g.is_under_way and g.reservation]
        for reservation, _ in under_way:
            self.prompts.mixture.resumed(reservation.prompt.source)
        learnt = _learnt_decoder.decode(msgspec.msgpack.encode(notes.get("limiter", {})))
        if is_fleet_alive:
            log.info("going on at version %d; %d groups are under way", learnt.version_number, len(under_way))
            for reservation, owner in under_way:
                self.leases.issue(reservation, owner, monotonic_s())
            return learnt
        self.leases.restore([reservation for reservation, _ in under_way])
        checkpoint = notes.get("checkpoint")
        number = checkpoint["version"] if checkpoint else 0
        log.info("resuming at version %d with %d groups to issue again", number, len(under_way))
        return msgspec.structs.replace(learnt, version_number=number, num_planned=number)


def admission_rules(config: Config) -> AdmissionRules:
    """The limiter's rules from a run's configuration."""
    return AdmissionRules(
        token_budget=config.global_token_budget,
        max_staleness=config.max_staleness,
        max_group_tokens=config.rollout.group_size * config.rollout.max_tokens,
        max_buffer_tokens=config.replay.max_buffer_tokens,
        max_reuse=config.replay.max_reuse,
    )

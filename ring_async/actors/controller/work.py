"""The controller's account of work: what is granted, to whom, what became of it; durable.

    PromptDesk ──new groups──▶ ┌──────────┐ ──records──▶ Journal (ledger)
    came back ──reissued─────▶ │ WorkDesk │ ──Reservation──▶ rollouts
    AdmissionLimiter ──how many▶└──────────┘ ◀──what became of them── replay, reward

Owns: prompts, leases, limiter, ledger and journal, and keeps them in step. Does not own the fleet or the network.
Invariant: a reservation is durable before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ring_async.actors.controller.prompts import MakeSource, OnEmpty, PromptDesk
from ring_async.clock import monotonic_s
from ring_async.config.schema import Config, SourceSection
from ring_async.core.work.admission import AdmissionLimiter, AdmissionRules, AdmissionState, Grant
from ring_async.core.work.difficulty import Window, observed_difficulty
from ring_async.core.work.ledger import GroupReissued, GroupReserved, GroupReturned, Noted, StatesMoved, split_id
from ring_async.core.work.reservations import ReservationDesk, Returned
from ring_async.storage.journal import Journal
from ring_async.telemetry import metrics
from ring_async.trajectory_states import TrajectoryState
from ring_async.transport.messages.work import BufferReported
from ring_async.types import PolicyVersion, Reservation

log = logging.getLogger(__name__)

_learnt_decoder = msgspec.msgpack.Decoder(AdmissionState)


class WorkDesk:
    """Args: `is_resumed` says whether to go on from the journal in `journal_dir`."""

    def __init__(self, config: Config, make_source: MakeSource, journal_dir: Path, *, is_resumed: bool) -> None:
        self._prompts = PromptDesk(config, make_source)
        self._desk = ReservationDesk()
        self._journal = Journal(journal_dir)
        self.ledger = self._journal.ledger
        self._limiter = AdmissionLimiter(admission_rules(config), self._restore() if is_resumed else AdmissionState())
        self._buffer: dict[str, BufferReported] = {}

    @property
    def version_number(self) -> int:
        """Number of the newest published version."""
        return self._limiter.state.version_number

    @property
    def num_open(self) -> int:
        """Groups granted and not yet durable in replay."""
        return self._desk.num_open

    def buffer_report(self) -> dict[str, float]:
        """What all replay shards hold: tokens, trajectories, and their counters, summed."""
        total: dict[str, float] = {"buffer_tokens": 0.0, "buffer_trajectories": 0.0}
        for report in self._buffer.values():
            total["buffer_tokens"] += report.buffer_tokens
            total["buffer_trajectories"] += report.buffer_trajectories
            for name, value in report.counters.items():
                total[name] = total.get(name, 0.0) + value
        return total

    # -- granting

    def grantable(self, policy_version: PolicyVersion | None) -> Grant:
        """How many groups a rollout with this version may have now, or why none."""
        grant = self._limiter.grantable(self._desk.num_open, policy_version)
        if grant.num_groups and not self._desk.num_waiting and (reason := self._prompts.why_none()):
            return Grant(0, reason)
        return grant

    def issue(self, owner: str, num_groups: int) -> tuple[Reservation, ...]:
        """Reserve groups for `owner`: those that came back first, then new prompts, as far as there are any."""
        now_s = monotonic_s()
        not_ready: set[str] = set()
        issued: list[Reservation] = []
        records: list[Any] = []
        for _ in range(num_groups):
            again = self._desk.next_again()
            reservation, attempt = again or (self._prompts.next(not_ready), 1)
            if reservation is None:
                break
            self._desk.issue(reservation, owner, now_s, attempt)
            if again:
                records.append(GroupReissued(reservation.group_id, owner))
            else:
                records.append(GroupReserved(reservation, owner))
            metrics.controller_reservations.labels(source=reservation.prompt.source).inc()
            issued.append(reservation)
        if records:
            self._journal.append(*records, *self._accounts())
        return tuple(issued)

    def pause_sources(self, sources: Iterable[str]) -> bool:
        """Reserve no more groups of these sources; whether any source is left."""
        self._prompts.mixture.paused.update(sources)
        return any(share > 0 and s not in self.paused_sources for s, share in self._prompts.mixture.shares.items())

    @property
    def paused_sources(self) -> set[str]:
        return self._prompts.mixture.paused

    def unpause_sources(self, sources: Iterable[str]) -> set[str]:
        """Reserve groups of these sources again; returns those that were paused."""
        resumed = self.paused_sources & set(sources)
        self._prompts.mixture.paused -= resumed
        return resumed

    def renew(self, owner: str, group_ids: Iterable[str]) -> tuple[str, ...]:
        """Extend leases; returns those lost."""
        return self._desk.renew(owner, group_ids, monotonic_s())

    # -- changes while the run goes on

    @property
    def shares(self) -> dict[str, float]:
        """The mixture in force: shares of completed tokens."""
        return dict(self._prompts.mixture.shares)

    @property
    def mixture_epoch(self) -> int:
        return self._prompts.mixture.epoch

    def sources_of(self, verifier: str) -> list[str]:
        """Sources of the present mixture that this verifier judges."""
        return self._prompts.sources_of(verifier)

    @property
    def windows(self) -> dict[str, Window]:
        """Difficulty windows in force, by source."""
        return dict(self._prompts.windows)

    def num_passed(self, source: str) -> int:
        """Prompts of a source that its window passed over, since this process began."""
        return self._prompts.num_passed(source)

    def on_empty_window(self, tell: OnEmpty) -> None:
        """Whom to tell of a window that nothing satisfies."""
        self._prompts.on_empty = tell

    def probe(self, source: str, window: Window) -> Iterator[None]:
        """See `PromptDesk.probe`."""
        return self._prompts.probe(source, window)

    def set_mixture(self, weights: Mapping[str, float], windows: Mapping[str, Window | None] | None = None) -> None:
        """Durably put new weights and windows in force; see `PromptDesk.set_mixture`."""
        self._prompts.set_mixture(weights, windows)
        self.note("prompts", self._prompts.snapshot())

    def add_source(self, name: str, section: SourceSection) -> None:
        self._prompts.add_source(name, section)

    def tune(self, config: Config) -> None:
        """Admit and sample by this configuration from the next reservation on.

        Raises:
            ConfigError: admission could come to a standstill under it.
        """
        self._limiter.tune(**msgspec.structs.asdict(admission_rules(config)))
        self._prompts.tune(config)

    # -- what became of it

    def give_back(self, group_ids: Iterable[str], cause: str) -> list[Returned]:
        """Groups that failed; returns those given up for good."""
        return self._take_back(self._desk.give_back(group_ids, cause))

    def owner_lost(self, owner: str) -> list[Returned]:
        return self._take_back(self._desk.owner_lost(owner, "owner_lost"))

    def expire(self) -> list[Returned]:
        return self._take_back(self._desk.expire(monotonic_s()))

    def moved(self, states: tuple[TrajectoryState, ...]) -> None:
        """Replay's word on trajectories. They are durable there, so their reservations are fulfilled."""
        by_group: dict[str, list[TrajectoryState]] = {}
        for state in states:
            by_group.setdefault(split_id(state.trajectory_id)[0], []).append(state)
        record = StatesMoved(states)
        self.ledger.check_record(record)
        has_completed = False
        observed: list[Noted] = []
        for group_id, moved in by_group.items():
            held = self._desk.complete(group_id)
            if held is not None:
                has_completed = True
                num_tokens = sum(state.num_tokens for state in moved)
                has_signal = any(state.state in {"buffered", "consumed"} for state in moved)
                self._prompts.mixture.completed(held.reservation.prompt.source, num_tokens)
                self._limiter.observe_group(num_tokens, has_signal=has_signal)
                difficulty = observed_difficulty([state.reward for state in moved])
                if (seen := self._prompts.observed(held.reservation, difficulty)) is not None:
                    observed.append(Noted(*seen))
        self._journal.append(record, *observed, *(self._accounts() if has_completed else ()))

    def observe_buffer(self, shard: str, report: BufferReported) -> None:
        self._buffer[shard] = report
        self._limiter.observe_buffer(
            sum(one.buffer_tokens for one in self._buffer.values()),
            max(one.next_plan_number for one in self._buffer.values()),
            is_learner_waiting=any(one.counters.get("is_learner_waiting") for one in self._buffer.values()),
        )

    def observe_version(self, version: PolicyVersion) -> None:
        self._limiter.observe_version(version)

    # -- small things that must survive with the ledger

    def note(self, key: str, value: Any) -> None:
        """Durably remember the newest value under `key`."""
        self._journal.append(Noted(key, value))

    def noted(self, key: str) -> Any:
        return self.ledger.notes.get(key)

    def close(self) -> None:
        self._journal.close()

    def _accounts(self) -> tuple[Noted, Noted]:
        """What a resumed run goes on from: cursors and mixture, and what the limiter has learnt of groups."""
        return Noted("prompts", self._prompts.snapshot()), Noted("limiter", msgspec.to_builtins(self._limiter.state))

    def _take_back(self, returned: list[Returned]) -> list[Returned]:
        failed = [back for back in returned if back.is_failed]
        for back in returned:
            metrics.controller_reissued.labels(cause=back.cause).inc()
            log.info("group %s came back from %s: %s", back.reservation.group_id, back.owner, back.cause)
        for back in failed:
            self._prompts.mixture.completed(back.reservation.prompt.source, 0)
            self._journal.append(GroupReturned(back.reservation.group_id, back.cause))
        return failed

    def _restore(self) -> AdmissionState:
        """Go on from the journal: cursors; groups that were under way are issued again, in their old order."""
        notes = self.ledger.notes
        for name, section in notes.get("sources", {}).items():
            self._prompts.add_source(name, SourceSection.model_validate(section))
        if "prompts" in notes:
            self._prompts.restore(notes["prompts"], notes)
        under_way = [group.reservation for group in self.ledger.live.values() if group.is_under_way]
        self._desk.restore([reservation for reservation in under_way if reservation is not None])
        checkpoint = notes.get("checkpoint")
        number = checkpoint["version"] if checkpoint else 0
        log.info("resuming at version %d with %d groups to issue again", number, len(under_way))
        learnt = _learnt_decoder.decode(msgspec.msgpack.encode(notes.get("limiter", {})))
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

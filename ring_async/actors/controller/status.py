"""The status of a run, as people read it.

Owns: which part of the controller each field comes from. Does not own the fields (`records.status`), nor how they are
shown (`monitoring.terminal`).
"""

from __future__ import annotations

from ring_async.actors.controller.changes import LiveChanges
from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.run_life import RunLife
from ring_async.actors.controller.versions import Versions
from ring_async.core.work.ledger import Ledger
from ring_async.records.status import CheckpointStatus, LedgerCounts, RunStatus, read_changes

NUM_EVENTS = 10


def describe_run(
    context: RunContext,
    *,
    life: RunLife,
    fleet: FleetShell,
    dispatcher: Dispatcher,
    ledger: Ledger,
    versions: Versions,
    changes: LiveChanges,
) -> RunStatus:
    """Describe a run: its state, its actors and their waits, figures, the ledger's counts, the last events."""
    config, run_log = context.config, context.run_log
    return RunStatus(
        run=config.run.name,
        state=life.state,
        reason=life.reason,
        policy_version=dispatcher.limiter.state.version_number,
        policy_versions=config.stop.policy_versions,
        remaining_s=run_log.remaining_s(config.stop.policy_versions),
        actors=fleet.describe(),
        reservations_open=dispatcher.leases.num_open,
        ledger=LedgerCounts(**ledger.counts()),
        causes=ledger.causes(),
        buffer=dispatcher.buffer_totals(),
        checkpoint=CheckpointStatus(**versions.checkpoint) if versions.checkpoint else None,
        paused_sources=tuple(sorted(dispatcher.prompts.mixture.paused)),
        changes=read_changes(changes.status()),
        last_evaluation=run_log.last_evaluation,
        last_step=run_log.recent_steps[-1] if run_log.recent_steps else None,
        events=tuple(run_log.recent_events)[-NUM_EVENTS:],
    )

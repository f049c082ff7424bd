"""The status of a run: what `GET /v1/status` answers, and what the terminal, the page and scripts read.

    controller ──RunStatus.plain()──▶ JSON ──read_status──▶ RunStatus ──▶ terminal, page, explain

Owns: the fields, their units, the JSON schema of the answer, and reading an answer back. Does not own the figures
(`actors.controller.status` collects them), nor how people see them (`monitoring.terminal`).
Invariants: states and causes are members of closed sets; a sentence for people is a field of its own and decides
nothing. What is not known is None, or left out of the JSON. A reader refuses another `schema_version`, and skips
fields that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.roster import Role
from ring_async.errors import RunError
from ring_async.records.events import Event, read_event
from ring_async.records.figures import ActorFigures, BufferTotals
from ring_async.records.steps import SCHEMA_VERSION, EvaluationRecord, StepRecord, evaluation_record, step_record


class ActorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One actor that should run. `counters` are those of its newest heartbeat; None (JSON: `{}`) before the first."""

    actor_id: str = "–"
    role: Role | None = None
    incarnation: int = 0
    pid: int | None = None
    host: str | None = None
    state: ActorState | None = None
    waiting_for: str = ""
    """Whom or what it waits for, in words; empty: it works."""
    wait_cause: WaitCause = WaitCause.NONE
    waited_s: float = 0.0
    heartbeat_age_s: float | None = None
    """Seconds since it was last heard; None: never."""
    counters: ActorFigures | None = None


class LedgerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Trajectories: `reserved` is the sum of the nine states; `reissued` and `adopted` are flows."""

    reserved: int = 0
    generating: int = 0
    generated: int = 0
    scored: int = 0
    buffered: int = 0
    consumed: int = 0
    retired: int = 0
    evicted: int = 0
    dropped: int = 0
    failed: int = 0
    reissued: int = 0
    """Issued again after their owner was lost or their lease ran out."""
    adopted: int = 0
    """Known to replay, but not to the journal."""


class CheckpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest durable checkpoint of the learner."""

    path: str
    plan_number: int
    version: int
    covered: int = 0
    """The last plan whose responses replay may delete: every checkpoint that is kept covers it."""


class VerifierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A verifier in force that differs from the configuration's."""

    use: str
    version: str
    epoch: int


class WindowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The difficulty window of one source; `num_passed` counts the prompts passed over since the process began."""

    by: str = ""
    low: float | None = None
    high: float | None = None
    num_passed: int = 0


class ChangesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force and may be changed while the run goes on."""

    mixture: dict[str, float] = {}
    """Each source's share of completed tokens."""
    mixture_epoch: int = 0
    difficulty: dict[str, WindowStatus] = {}
    verifiers: dict[str, VerifierStatus] = {}
    knobs: dict[str, Any] = {}
    """Settings changed since the start, by their key in the configuration."""
    scale: dict[str, int] = {}
    """Wanted number of actors, by role."""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is now."""

    schema_version: int = SCHEMA_VERSION
    run: str = "–"
    state: RunState | None = None
    reason: str = ""
    """Why the run ends or has ended, in words; empty while it goes on."""
    policy_version: int | None = None
    policy_versions: int | None = None
    """The last version that is wanted."""
    remaining_s: float | None = None
    actors: tuple[ActorStatus, ...] = ()
    reservations_open: int = 0
    ledger: LedgerCounts = LedgerCounts()
    causes: dict[str, int] = {}
    """Ended trajectories, by `state(cause)`."""
    buffer: BufferTotals = BufferTotals()
    checkpoint: CheckpointStatus | None = None
    paused_sources: tuple[str, ...] = ()
    changes: ChangesStatus = ChangesStatus()
    last_evaluation: EvaluationRecord | None = None
    last_step: StepRecord | None = None
    events: tuple[Event, ...] = ()
    """The last ones, the newest last."""

    def plain(self) -> dict[str, Any]:
        """The status as JSON has it: steps, evaluations and events as the lines that the run's files hold."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        for actor in plain["actors"]:
            actor["counters"] = actor["counters"] or {}
        lines = {
            "last_step": self.last_step.plain() if self.last_step else None,
            "last_evaluation": self.last_evaluation.plain() if self.last_evaluation else None,
            "events": [event.plain() for event in self.events],
        }
        return plain | lines


# Made at import, like every decoder: see docs/dependencies.md, msgspec.
_status_decoder = msgspec.msgpack.Decoder(RunStatus)
_changes_decoder = msgspec.msgpack.Decoder(ChangesStatus)


def read_status(plain: dict[str, Any]) -> RunStatus:
    """Read an answer of `GET /v1/status`.

    Raises:
        RunError: it is of another `schema_version`, or no status.
    """
    version = plain.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise RunError(
            f"the run's status has schema version {version}, this command reads {SCHEMA_VERSION}: use the release of "
            "ring-async that started the run"
        )
    try:
        step, evaluation = plain.get("last_step"), plain.get("last_evaluation")
        lines = {
            "last_step": step_record(step) if step else None,
            "last_evaluation": evaluation_record(evaluation) if evaluation else None,
            "events": tuple(read_event(line) for line in plain.get("events") or ()),
        }
        rest = {key: value for key, value in plain.items() if key not in lines and value is not None}
        rest["actors"] = [actor | {"counters": actor.get("counters") or None} for actor in plain.get("actors") or ()]
        return msgspec.structs.replace(_status_decoder.decode(msgspec.msgpack.encode(rest)), **lines)
    except ValueError as error:
        raise RunError(f"the run's status cannot be read: {error}") from error


def read_changes(plain: dict[str, Any]) -> ChangesStatus:
    """Read what is in force from an answer of the control API.

    Raises:
        RunError: it is something else.
    """
    try:
        return _changes_decoder.decode(msgspec.msgpack.encode(plain))
    except msgspec.ValidationError as error:
        raise RunError(f"the run's answer cannot be read: {error}") from error


def status_schema(ref_template: str = "#/components/schemas/{name}") -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of `RunStatus.plain()`: a reference to it, and the schemas it refers to by name."""
    (reference,), components = msgspec.json.schema_components([RunStatus], ref_template=ref_template)
    for name, inner in (("Event", "details"), ("StepRecord", "more"), ("EvaluationRecord", "more")):
        properties = components[name]["properties"]
        del properties[inner]  # its keys lie beside the other fields
        components[name]["additionalProperties"] = True
    return reference, components

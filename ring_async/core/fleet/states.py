"""The states of a run and of its actors, and what an actor waits for, as heartbeats, `status` and people spell them.

Owns: the names. Does not own the transitions between them, nor the states of trajectories
(`trajectory_states`) and of swaps (`core.verifier_swap`).
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    PAUSED = "paused"
    """No work is granted and nothing is trained until a person resumes it."""
    STOPPING = "stopping"
    """Actors are leaving; the status gives the reason."""
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        return self in (RunState.FINISHED, RunState.FAILED)


class ActorState(StrEnum):
    """The state of an actor, as its heartbeats report it; `WAITING` (no process yet) is set by the controller."""

    WAITING = "waiting"
    """There is no place yet where the actor's process could start."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """The actor was told to leave and finishes its work."""
    DONE = "done"


class WaitCause(StrEnum):
    """What an actor waits for: the label `cause` of the metrics `ring_<actor>_waiting_seconds_total`, and of `status`.

    Members of one role's waits appear together; `OTHER` is a wait that no metric tells apart.
    """

    NONE = ""
    RESERVATION = "reservation"
    """A rollout: admission grants nothing, because enough tokens are ahead of the learner."""
    WEIGHTS = "weights"
    """A rollout or evaluator: it has no version yet, or one that is too old."""
    SLOT = "slot"
    """A rollout: its engine is full, which is how it should be."""
    PAUSED = "paused"
    """A person paused the run."""
    GROUP = "group"
    """A reward actor: no group has arrived."""
    COMMIT = "commit"
    """A reward actor or rollout: what it sent is not durable yet, or nobody gives credit."""
    TOKENS = "tokens"
    """Replay: the learner has asked, and there are fewer than Φ eligible tokens."""
    DISK = "disk"
    """Replay: the store cannot be written."""
    BATCH = "batch"
    """The learner: replay has no batch of Φ tokens."""
    PUBLISH = "publish"
    """The learner: the version before is still being published."""
    PLACE = "place"
    """A process that cannot start: no host has room."""
    OTHER = "other"

"""The states of a run and of its actors, as heartbeats, `status` and people spell them.

Owns: the names of the states. Does not own the transitions between them, nor the states of trajectories
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

"""The states of a run and of its actors, as heartbeats, `status` and people spell them.

Owns: the words. Does not own what leads from one state to the next, nor the states of trajectories
(`core.work.ledger`) and of swaps (`core.verifier_swap`).
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """What a run does now."""

    RUNNING = "running"
    PAUSED = "paused"
    """No work is granted and nothing is trained until a person resumes it."""
    STOPPING = "stopping"
    """Actors are leaving. Why, stands beside the state."""
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        return self in (RunState.FINISHED, RunState.FAILED)


class ActorState(StrEnum):
    """What an actor does now. It says so itself, but for `WAITING`, which the controller says in its place."""

    WAITING = "waiting"
    """There is no place yet where its process could start."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """It was told to leave and finishes what it has under way."""
    DONE = "done"

"""States of trajectories in portions that fit a message.

Owns: the size of a portion. Does not own the messages, or what the states mean (`ledger`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ring_async.core.ids import split_id
from ring_async.trajectory_states import TrajectoryState

MAX_STATES_PER_PORTION = 2_048
"""States one message to the controller holds, about; a checkpoint may retire hundreds of thousands at once."""


def in_portions(states: Sequence[TrajectoryState]) -> list[tuple[TrajectoryState, ...]]:
    """Split states into portions that fit a message; adjacent states of one group stay together."""
    portions: list[list[TrajectoryState]] = []
    last_id = ""
    for state in states:
        group_id, _ = split_id(state.trajectory_id)
        if not portions or (len(portions[-1]) >= MAX_STATES_PER_PORTION and group_id != last_id):
            portions.append([])
        portions[-1].append(state)
        last_id = group_id
    return [tuple(portion) for portion in portions]

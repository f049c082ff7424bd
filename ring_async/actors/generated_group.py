"""A group as a rollout generated it: K generations of one reservation, put together.

Owns: how they become one columnar group. Does not own generating them (`rollout`), or what becomes of the group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ring_async.core.ids import trajectory_id_for
from ring_async.types import Generation, Group, GroupHeader, Int32, Reservation, Trajectory, TrajectoryHeader


def group_of(
    reservation: Reservation, prompt_ids: Int32, generations: Sequence[Generation], *, engine_id: str
) -> Group:
    """Assemble K generations of one reservation into a columnar group."""
    trajectories = [
        Trajectory(
            header=TrajectoryHeader(
                trajectory_id=trajectory_id_for(reservation.group_id, index),
                num_tokens=len(generation.response_ids),
                finish_reason=generation.finish_reason,
                segments=generation.segments,
            ),
            response_ids=generation.response_ids,
            behavior_logprobs=generation.behavior_logprobs,
            loss_mask=np.ones(len(generation.response_ids), np.uint8),
            columns=generation.columns,
        )
        for index, generation in enumerate(generations)
    ]
    header = GroupHeader(
        group_id=reservation.group_id,
        prompt=reservation.prompt,
        seed=reservation.seed,
        engine_id=engine_id,
        mixture_epoch=reservation.mixture_epoch,
        sampling=reservation.sampling,
        num_prompt_tokens=len(prompt_ids),
        trajectories=(),
    )
    return Group.from_trajectories(header, prompt_ids, trajectories)

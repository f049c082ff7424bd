"""The roster: which roles a fleet has, how many actors play each, and what a role may do.

Owns: the roles, their order, the ids of actors, which roles can be scaled, where each may run. Does not own which
processes are alive (`core.fleet.fleet`), nor the configuration: numbers come as arguments (`Config.roster` gives them).
Invariants: ids of a role count from 0 without a gap; the first learner leads the others, and the first replay shard
plans batches, so their ids are known before anything runs.

    Roster(rollout=2, reward=1, replay=1, learner=2, evaluator=0)
        controller-0 · replay-0 · learner-0 (leads), learner-1 (rank 1) · reward-0 · rollout-0, rollout-1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec


class Role(StrEnum):
    """The role that an actor plays in the run."""

    CONTROLLER = "controller"
    REPLAY = "replay"
    LEARNER = "learner"
    EVALUATOR = "evaluator"
    REWARD = "reward"
    ROLLOUT = "rollout"


class Residence(StrEnum):
    """Where the actors of a role may run."""

    ANYWHERE = "anywhere"
    """On any host with room, possibly another one after a restart: the role keeps no state and reads no users' files.
    """
    ONE_HOST = "one_host"
    """On its first host: the role reads files that people named."""
    WITH_ITS_STATE = "with_its_state"
    """On its first host, also after a resume: the role's state lies on that host's disk."""


RESIDENCE: Mapping[Role, Residence] = {
    Role.CONTROLLER: Residence.WITH_ITS_STATE,
    Role.REPLAY: Residence.WITH_ITS_STATE,
    Role.LEARNER: Residence.WITH_ITS_STATE,
    Role.EVALUATOR: Residence.ONE_HOST,
    Role.REWARD: Residence.ANYWHERE,
    Role.ROLLOUT: Residence.ANYWHERE,
}

SCALABLE = (Role.ROLLOUT, Role.REWARD)
"""Roles whose number of actors may change while the run goes on."""

GPU_ROLES = (Role.ROLLOUT, Role.LEARNER, Role.REWARD, Role.EVALUATOR)
"""Roles that can use a GPU."""

ENGINE_ROLES = frozenset({Role.ROLLOUT, Role.EVALUATOR})
"""Roles whose actors hold a rollout engine."""

LEAVING_ORDER = ((Role.ROLLOUT,), (Role.REWARD,), (Role.EVALUATOR,), (Role.LEARNER, Role.REPLAY))
"""Upstream roles first, so that a message under way still finds a receiver that acknowledges it."""


class ActorSpec(msgspec.Struct, frozen=True, order=True):
    """One process of the fleet, by name: `incarnation` grows with every restart of the actor."""

    actor_id: str
    role: Role
    incarnation: int


@dataclass(frozen=True, slots=True)
class Roster:
    """The number of actors of each role, beside the one controller.

    `learner` counts the processes of the learner, one for each rank.
    """

    rollout: int
    reward: int
    replay: int
    learner: int
    evaluator: int

    @property
    def counts(self) -> dict[Role, int]:
        return {
            Role.CONTROLLER: 1,
            Role.REPLAY: self.replay,
            Role.LEARNER: self.learner,
            Role.EVALUATOR: self.evaluator,
            Role.REWARD: self.reward,
            Role.ROLLOUT: self.rollout,
        }

    def actors(self) -> Iterator[tuple[str, Role]]:
        """The id and role of every actor."""
        for role, num in self.counts.items():
            for index in range(num):
                yield id_of(role, index), role

    def needs(self, share: Mapping[Role, float]) -> dict[Role, float]:
        """The needs of all actors of each role together, from those of one; a missing role needs none."""
        return {role: num * share.get(role, 0.0) for role, num in self.counts.items()}


def id_of(role: Role, index: int) -> str:
    """`rollout-3`. Of a learner, `index` is the rank."""
    return f"{role}-{index}"


def ordinal_of(actor_id: str) -> int:
    """`rollout-3` → 3."""
    return int(actor_id.rpartition("-")[2])


CONTROLLER_ID = id_of(Role.CONTROLLER, 0)
LEARNER_ID = id_of(Role.LEARNER, 0)
"""Rank 0, which leads: commands to the learner go to it."""
PLANNER_ID = id_of(Role.REPLAY, 0)
"""The replay shard that plans batches for all shards."""

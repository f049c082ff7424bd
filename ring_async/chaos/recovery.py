"""When an actor that was struck has recovered: its successor has made its first useful product.

    rollout: it sampled tokens · reward: it judged · replay: it committed a group, or planned a batch
    learner: it trained a step · evaluator: it holds weights · controller: it granted work

Owns: this definition, for each role. Does not own striking, nor the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from ring_async.core.roster import Role
from ring_async.records.figures import (
    ActorFigures,
    EvaluatorFigures,
    LearnerFigures,
    ReplayFigures,
    RewardFigures,
    RolloutFigures,
)
from ring_async.records.status import ActorStatus, RunStatus


@dataclass(frozen=True, slots=True)
class Seen:
    """A run at one moment.

    Attributes:
        status: as the controller told it.
        controller_pid: the process that told it.
    """

    status: RunStatus
    controller_pid: int

    def actor(self, actor_id: str) -> ActorStatus | None:
        return next((actor for actor in self.status.actors if actor.actor_id == actor_id), None)


def is_recovered(role: Role, actor_id: str, before: Seen, now: Seen) -> bool:
    """Whether the successor of an actor that was struck at `before` has produced something by `now`."""
    if role is Role.CONTROLLER:
        is_another = now.controller_pid != before.controller_pid
        return is_another and now.status.ledger.reserved > before.status.ledger.reserved
    if not has_successor(role, actor_id, before, now):
        return False
    actor = now.actor(actor_id)
    return actor is not None and actor.counters is not None and _is_productive(actor.counters)


def has_successor(role: Role, actor_id: str, before: Seen, now: Seen) -> bool:
    """Whether another process than before runs under this actor's id."""
    if role is Role.CONTROLLER:
        return now.controller_pid != before.controller_pid
    was, is_now = before.actor(actor_id), now.actor(actor_id)
    return is_now is not None and is_now.pid is not None and (was is None or _life(is_now) != _life(was))


def bystanders_lost(struck: frozenset[str], before: Seen, now: Seen) -> list[str]:
    """The actors that nobody struck and that have another process now."""
    was = {actor.actor_id: _life(actor) for actor in before.status.actors if actor.pid is not None}
    return [
        actor.actor_id
        for actor in now.status.actors
        if actor.actor_id not in struck
        and actor.pid is not None
        and was.get(actor.actor_id, _life(actor)) != _life(actor)
    ]


def _life(actor: ActorStatus) -> tuple[int | None, int]:
    """What tells an actor from its successor: actors of one process have one process id, and differ by incarnation."""
    return actor.pid, actor.incarnation


def _is_productive(figures: ActorFigures) -> bool:
    match figures:
        case RolloutFigures():
            return figures.generated_tokens > 0
        case RewardFigures():
            return figures.verdicts > 0
        case ReplayFigures():
            return figures.commits > 0
        case LearnerFigures():
            return figures.steps > 0
        case EvaluatorFigures():
            return figures.policy_version is not None

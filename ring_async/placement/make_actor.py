"""Which class plays each role, with the engine, trainer and weight channel that the configuration names.

Owns: the choice. Does not own the parts: the registries of engines, trainers and channels make them. Imports lie inside
the branches, so that a process loads only what its role needs. The controller is made in `actor_process`: it brings its
control API along.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ring_async.core.roster import Role
from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path
from ring_async.telemetry.trace import Tracer
from ring_async.transport.curve import CurveKeys

if TYPE_CHECKING:
    from ring_async.actors.base import Actor, ActorContext


def make_actor(context: ActorContext, socket_dir: Path, keys: CurveKeys | None) -> Actor:
    """The actor that plays the role of `context.spec`.

    Args:
        context: of the process.
        socket_dir: folder (mode 0700) for the sockets of the weight channel.
        keys: of the run, for CURVE on TCP.

    Raises:
        ConfigError: no class plays the role, or the configuration names a part that is not here.
    """
    from ring_async.engines.tokenizer import load_tokenizer

    make_tokenizer = functools.partial(load_tokenizer, resolve_model_path(context.config.model.path))
    match context.spec.role:
        case Role.ROLLOUT:
            return _make_rollout(context, make_tokenizer, keys)
        case Role.REWARD:
            from ring_async.actors.reward import Reward

            return Reward(context, make_tokenizer)
        case Role.REPLAY:
            from ring_async.actors.replay.replay import Replay

            return Replay(context)
        case Role.LEARNER:
            return _make_learner(context, socket_dir, keys)
        case Role.EVALUATOR:
            return _make_evaluator(context, make_tokenizer, keys)
        case role:
            raise ConfigError(f"no actor plays the role {role!r}")


def _make_rollout(context: ActorContext, make_tokenizer: Any, keys: CurveKeys | None) -> Actor:
    from ring_async.actors.rollout import Rollout
    from ring_async.engines.registry import make_engine
    from ring_async.transport.weights.registry import make_weight_receiver

    config, actor_id = context.config, context.spec.actor_id
    engine = make_engine(config, actor_id, context.tracer, context.run_dir.logs)
    return Rollout(context, engine, make_weight_receiver(config, actor_id=actor_id, keys=keys), make_tokenizer)


def _make_learner(context: ActorContext, socket_dir: Path, keys: CurveKeys | None) -> Actor:
    from ring_async.actors.learner import Learner
    from ring_async.actors.learner_ranks.group import RankGroup
    from ring_async.placement.learner_hosts import RayRankHosts
    from ring_async.training.registry import make_trainer
    from ring_async.transport.weights.registry import make_weight_sender

    config = context.config
    sender = make_weight_sender(config, socket_dir=socket_dir, actor_id=context.spec.actor_id, keys=keys)
    parallel = config.learner.parallel
    hosts = RayRankHosts(config) if parallel.hosts > 1 else None
    ranks = RankGroup(context, socket_dir, keys, hosts) if parallel.num_ranks > 1 else None
    store = ranks.store if ranks else ""
    return Learner(context, lambda: make_trainer(config, 0, store), sender, ranks)


def _make_evaluator(context: ActorContext, make_tokenizer: Any, keys: CurveKeys | None) -> Actor:
    from ring_async.actors.evaluator import Evaluator
    from ring_async.data.registry import make_source
    from ring_async.engines.registry import make_engine
    from ring_async.transport.weights.registry import make_weight_receiver

    config, actor_id = context.config, context.spec.actor_id
    return Evaluator(
        context,
        # Its engine records no `generate` spans: those of rollouts prove that training is asynchronous.
        make_engine(config, actor_id, Tracer(None, actor_id), context.run_dir.logs),
        make_weight_receiver(config, actor_id=actor_id, keys=keys),
        make_tokenizer,
        lambda: {name: make_source(name, config.sources[name]) for name in config.mixture},
    )

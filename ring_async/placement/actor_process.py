"""Inside an actor's process: from what it was handed to a living actor.

Owns: which class plays each role, with which engine and weight channel; the log file, trace part and exporter of one
process. Does not own where it runs (`reservations`) nor whether it should (the controller).
Invariant: a process needs nothing of another host's disk: its configuration, and on other hosts than the launcher's the
run's keys, come with the launch. What it writes lies on its own host, in the layout of a run's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import logging.handlers
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import msgspec

from ring_async.config.load import config_from_mapping
from ring_async.config.schema import Config
from ring_async.errors import ActorFailedError, ConfigError, RingAsyncError
from ring_async.models import resolve_model_path
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.telemetry.trace import Tracer
from ring_async.transport.curve import CurveKeys
from ring_async.transport.messages.fleet import ActorSpec

log = logging.getLogger(__name__)


class ActorLaunch(msgspec.Struct, frozen=True):
    """All that a fresh process needs to become one actor."""

    spec: ActorSpec
    config: str
    """Resolved, as JSON."""
    run_dir: str
    working_dir: str
    """Where `up` was called: relative paths of the configuration begin there, on hosts that have it."""
    socket_dir: str
    controller_endpoint: str
    is_resumed: bool
    address: str = ""
    """Under which the cluster knows the host; empty: the fleet has one machine for itself."""
    keys: CurveKeys | None = None
    """Of the run, for hosts that do not hold its `keys/`."""


def live_actor(launch: ActorLaunch) -> None:
    """Be one actor, from the first import to the last socket. Returns when its work is done.

    Raises:
        ActorFailedError: it could not go on.
    """
    run_dir = RunDir(Path(launch.run_dir))
    run_dir.create()
    if Path(launch.working_dir).is_dir():
        os.chdir(launch.working_dir)
    _log_to_file(run_dir.logs / f"{launch.spec.actor_id}.log")
    config = config_from_mapping(json.loads(launch.config))
    try:
        asyncio.run(_live(launch, config.at(launch.address) if launch.address else config, run_dir))
    except* RingAsyncError as failures:
        log.exception("%s ended", launch.spec.actor_id)
        raise ActorFailedError(str(_first(failures))) from None
    except* Exception as failures:
        log.exception("%s crashed", launch.spec.actor_id)
        raise ActorFailedError(repr(_first(failures))) from None


async def _live(launch: ActorLaunch, config: Config, run_dir: RunDir) -> None:
    from ring_async.actors.base import ActorContext
    from ring_async.telemetry.exporter import Exporter
    from ring_async.transport.channel import ZmqTransport

    spec = launch.spec
    keys = (launch.keys or CurveKeys.load(run_dir.keys)) if config.transport.kind == "tcp" else None
    transport = ZmqTransport(spec.actor_id, config.transport, Path(launch.socket_dir), keys)
    part = run_dir.trace_parts / f"{spec.actor_id}.jsonl"
    tracer = Tracer(part if config.monitoring.trace else None, spec.actor_id)
    with contextlib.ExitStack() as stack:
        endpoint = ""
        if config.monitoring.prometheus:
            endpoint = stack.enter_context(Exporter(spec.role, host=config.transport.address)).endpoint
        host = launch.address or socket.gethostname()
        context = ActorContext(spec, config, run_dir, transport, launch.controller_endpoint, tracer, endpoint, host)
        if spec.role == "controller":
            await _live_controller(context, launch)
        else:
            actor = make_actor(context, Path(launch.socket_dir), keys)
            log.info("parts: %s", " ".join(f"{part}={type(one).__name__}" for part, one in parts_of(actor).items()))
            await actor.live()


async def _live_controller(context: Any, launch: ActorLaunch) -> None:
    from ring_async.actors.controller.controller import Controller
    from ring_async.control.api import make_app, serve
    from ring_async.control.tls import read_certificate
    from ring_async.data.registry import make_source

    config, run_dir = context.config, context.run_dir
    controller = Controller(context, make_source, is_resumed=launch.is_resumed)
    token = secrets.token_urlsafe(32)
    app = make_app(controller, token, config.run.name, config.control)
    async with serve(app, config.control) as url:
        endpoints = {
            "api": url,
            "token": token,
            "certificate": read_certificate(config.control),
            "control": controller.endpoint,
            "metrics": context.metrics_endpoint,
            "controller_incarnation": context.spec.incarnation,
            "pid": os.getpid(),
        }
        write_json(run_dir.endpoints, endpoints, mode=0o600)
        await controller.live()


def make_actor(context: Any, socket_dir: Path, keys: Any) -> Any:
    """The class that plays a role, with the engine and weight channel that the configuration names.

    Imports lie inside the branches, so that a process loads only what its role needs.
    """
    from ring_async.engines.tokenizer import load_tokenizer

    config, actor_id = context.config, context.spec.actor_id
    make_tokenizer = functools.partial(load_tokenizer, resolve_model_path(config.model.path))
    channel = {"socket_dir": socket_dir, "actor_id": actor_id, "keys": keys}
    match context.spec.role:
        case "rollout":
            from ring_async.actors.rollout import Rollout
            from ring_async.transport.weights.make import make_weight_receiver

            engine = _make_rollout_engine(config, actor_id, context.tracer)
            return Rollout(context, engine, make_weight_receiver(config, **channel), make_tokenizer)
        case "reward":
            from ring_async.actors.reward import Reward

            return Reward(context, make_tokenizer)
        case "replay":
            from ring_async.actors.replay.replay import Replay

            return Replay(context)
        case "learner":
            from ring_async.actors.learner import Learner
            from ring_async.transport.weights.make import make_weight_sender

            return Learner(context, lambda: _make_train_engine(config), make_weight_sender(config, **channel))
        case "evaluator":
            from ring_async.actors.evaluator import Evaluator
            from ring_async.data.registry import make_source
            from ring_async.transport.weights.make import make_weight_receiver

            # Its engine draws no `generate` spans: those are rollouts', and prove that training is asynchronous.
            engine = _make_rollout_engine(config, actor_id, Tracer(None, actor_id))
            return Evaluator(
                context,
                engine,
                make_weight_receiver(config, **channel),
                make_tokenizer,
                lambda: {name: make_source(name, config.sources[name]) for name in config.mixture},
            )
        case role:
            raise ConfigError(f"no actor plays the role {role!r}")


def parts_of(actor: Any) -> dict[str, Any]:
    """What an actor is made of: itself, its transport, and what the configuration chose."""
    parts = {"actor": actor, "transport": actor.context.transport}
    return parts | {name: part for name, part in vars(actor).items() if name in ("engine", "receiver", "sender")}


def _make_rollout_engine(config: Config, actor_id: str, tracer: Tracer) -> Any:
    if config.rollout.engine == "embedded":
        from ring_async.engines.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(
            actor_id,
            resolve_model_path(config.model.path),
            max_running_requests=config.rollout.max_running_requests,
            num_threads=config.rollout.num_threads,
            dtype=config.model.dtype,
            tracer=tracer,
            **config.rollout.engine_options,
        )
    raise ConfigError(f"rollout.engine: {config.rollout.engine} is not part of this release; use embedded")


def _make_train_engine(config: Config) -> Any:
    if config.learner.engine == "hf":
        from ring_async.training.hf.engine import HfTrainEngine

        return HfTrainEngine(config, resolve_model_path(config.model.path))
    raise ConfigError(f"learner.engine: {config.learner.engine} is not part of this release; use hf")


def _log_to_file(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=16 << 20, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


def _first(failures: BaseExceptionGroup) -> BaseException:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure

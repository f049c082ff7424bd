"""The inside of an actor's process: it builds and runs the actor that its launch describes.

Owns: the log file, trace part and exporter of one process. Does not own which class plays a role (`make_actor`), where
the process runs (`places`), nor whether it should (the controller).
Invariant: a process needs no file of another host: the launch carries its configuration and, on hosts other than the
launcher's, the run's keys. Its own files lie on its own host, in the layout of a run's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ring_async.config.load import config_from_mapping
from ring_async.config.schema import Config, ControlSection
from ring_async.core.roster import ActorSpec, Role
from ring_async.errors import ActorFailedError, RingAsyncError, first_failure
from ring_async.placement.make_actor import make_actor
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.telemetry.log_format import log_to_file
from ring_async.telemetry.trace import Tracer
from ring_async.transport.curve import CurveKeys

log = logging.getLogger(__name__)


class ActorLaunch(msgspec.Struct, frozen=True):
    """The data from which a fresh process becomes one actor."""

    spec: ActorSpec
    config: str
    """The resolved configuration, as JSON."""
    run_dir: str
    working_dir: str
    """The folder where `up` was called; relative paths of the configuration start there, on hosts that have it."""
    socket_dir: str
    controller_endpoint: str
    is_resumed: bool
    address: str = ""
    """Address under which the cluster knows the host; empty: the whole fleet runs on this machine."""
    keys: CurveKeys | None = None
    """CURVE keys of the run, for hosts that do not hold its `keys/`."""


def live_actor(launch: ActorLaunch) -> None:
    """Run one actor, from the first import to the last socket. Returns when its work is done.

    Raises:
        ActorFailedError: the actor could not go on.
    """
    run_dir = RunDir(Path(launch.run_dir))
    run_dir.create()
    if Path(launch.working_dir).is_dir():
        os.chdir(launch.working_dir)
    log_to_file(run_dir.logs / f"{launch.spec.actor_id}.log")
    config = config_from_mapping(json.loads(launch.config))
    try:
        asyncio.run(_live(launch, config.at(launch.address) if launch.address else config, run_dir))
    except* RingAsyncError as failures:
        log.exception("%s ended", launch.spec.actor_id)
        raise ActorFailedError(str(first_failure(failures))) from None
    except* Exception as failures:
        log.exception("%s crashed", launch.spec.actor_id)
        raise ActorFailedError(repr(first_failure(failures))) from None


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
        if spec.role == Role.CONTROLLER:
            await _live_controller(context, launch)
        else:
            actor = make_actor(context, Path(launch.socket_dir), keys)
            log.info("parts: %s", " ".join(f"{part}={type(one).__name__}" for part, one in actor.parts().items()))
            await actor.live()


async def _live_controller(context: Any, launch: ActorLaunch) -> None:
    from ring_async.actors.controller.controller import Controller
    from ring_async.control.api import make_app
    from ring_async.control.tls import read_certificate
    from ring_async.data.registry import make_source

    config, run_dir = context.config, context.run_dir
    controller = Controller(context, make_source, is_resumed=launch.is_resumed)
    # People, Prometheus and open pages know the predecessor's address and token: a restart changes neither.
    former = run_dir.read_endpoints() if context.spec.incarnation and run_dir.endpoints.exists() else {}
    token = former.get("token") or secrets.token_urlsafe(32)
    app = make_app(controller, token, config.run.name, config.control)
    async with contextlib.AsyncExitStack() as stack:
        url = await _serve_again(stack, app, config.control, former.get("api", ""))
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
        async with _annotating(config, run_dir, controller.monitoring_lost):
            await controller.live()


@contextlib.asynccontextmanager
async def _annotating(config: Config, run_dir: RunDir, on_lost: Callable[[str], None]) -> AsyncIterator[None]:
    """Write the run's events to Grafana as long as the block lasts, if the configuration names a Grafana."""
    if not config.monitoring.grafana.is_wanted:
        yield
        return
    from ring_async.monitoring.grafana.annotations import Annotator
    from ring_async.monitoring.grafana.server import grafana_of

    try:
        grafana = grafana_of(config.monitoring.grafana, run_dir)
    except RingAsyncError as error:
        on_lost(str(error))
        grafana = None
    if grafana is None:
        yield
        return
    annotator = Annotator(run_dir, config.run.name, grafana, on_lost)
    annotating = asyncio.create_task(annotator.run(), name="annotations")
    try:
        yield
    finally:
        annotating.cancel()
        await asyncio.gather(annotating, return_exceptions=True)
        with contextlib.suppress(RingAsyncError):  # the run's end is an event too
            await asyncio.to_thread(annotator.catch_up)


async def _serve_again(stack: contextlib.AsyncExitStack, app: Any, control: ControlSection, former_url: str) -> str:
    """Serve the control API where the former controller did, or elsewhere if that port is taken; returns the URL."""
    from ring_async.control.api import serve

    port = urlsplit(former_url).port
    if port is not None:
        with contextlib.suppress(OSError):
            return await stack.enter_async_context(serve(app, control.model_copy(update={"port": port})))
    return await stack.enter_async_context(serve(app, control))

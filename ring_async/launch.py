"""From a configuration to a running fleet: the only file that knows everyone.

    Config ──▶ Launcher (this process) ──Ray──▶ one process per actor ──ZMQ──▶ each other
                  │  reports exits ▲ is told what should run
                  └───────── Controller (the one restart authority)

Owns: which class plays each role, with which engine and weight channel; placement; starting and stopping processes.
Does not own any decision about restarts but one: the controller's own. Ray places and watches processes and carries no
data of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import logging.handlers
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ring_async.clock import monotonic_s
from ring_async.config.load import dump_config, load_config
from ring_async.config.schema import Config
from ring_async.core.restart import RestartPolicy
from ring_async.errors import ActorFailedError, ConfigError, PeerTimeoutError, RingAsyncError, RunError
from ring_async.models import resolve_model_path
from ring_async.monitoring.trace import Tracer, merge_traces
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.transport.messages import ActorExit, ActorSpec, FleetWanted, ReportFleet

log = logging.getLogger(__name__)

RECONCILE_S = 0.2
SIGNAL_DEBOUNCE_S = 0.3
ROLE_COUNTS = {
    "controller": lambda config: 1,
    "replay": lambda config: config.replay.num,
    "reward": lambda config: config.reward.num,
    "rollout": lambda config: config.rollout.num,
    "learner": lambda config: 1,
    "evaluator": lambda config: config.num_evaluators,
}


# -- inside an actor's process


class ActorLaunch(msgspec.Struct, frozen=True):
    """All that a fresh process needs to become one actor."""

    spec: ActorSpec
    run_dir: str
    socket_dir: str
    controller_endpoint: str
    is_resumed: bool


def live_actor(launch: ActorLaunch) -> None:
    """Be one actor, from the first import to the last socket. Returns when its work is done.

    Raises:
        ActorFailedError: it could not go on.
    """
    run_dir = RunDir(Path(launch.run_dir))
    _log_to_file(run_dir.logs / f"{launch.spec.actor_id}.log")
    config = load_config(run_dir.config)
    try:
        asyncio.run(_live(launch, config, run_dir))
    except* RingAsyncError as failures:
        log.exception("%s ended", launch.spec.actor_id)
        raise ActorFailedError(str(_first(failures))) from None
    except* Exception as failures:
        log.exception("%s crashed", launch.spec.actor_id)
        raise ActorFailedError(repr(_first(failures))) from None


async def _live(launch: ActorLaunch, config: Config, run_dir: RunDir) -> None:
    from ring_async.actors.base import ActorContext
    from ring_async.monitoring.exporter import Exporter
    from ring_async.transport.channel import ZmqTransport
    from ring_async.transport.curve import CurveKeys

    spec = launch.spec
    keys = CurveKeys.load(run_dir.keys) if config.transport.kind == "tcp" else None
    transport = ZmqTransport(spec.actor_id, config.transport, Path(launch.socket_dir), keys)
    part = run_dir.trace_parts / f"{spec.actor_id}.jsonl"
    tracer = Tracer(part if config.monitoring.trace else None, spec.actor_id)
    with contextlib.ExitStack() as stack:
        endpoint = ""
        if config.monitoring.prometheus:
            endpoint = stack.enter_context(Exporter(spec.role, host=config.transport.host)).endpoint
        context = ActorContext(spec, config, run_dir, transport, launch.controller_endpoint, tracer, endpoint)
        if spec.role == "controller":
            await _live_controller(context, launch)
        else:
            actor = make_actor(context, Path(launch.socket_dir), keys)
            log.info("parts: %s", " ".join(f"{part}={type(one).__name__}" for part, one in parts_of(actor).items()))
            await actor.live()


async def _live_controller(context: Any, launch: ActorLaunch) -> None:
    from ring_async.actors.controller import Controller
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
            from ring_async.transport.weights import make_weight_receiver

            engine = _make_rollout_engine(config, actor_id, context.tracer)
            return Rollout(context, engine, make_weight_receiver(config, **channel), make_tokenizer)
        case "reward":
            from ring_async.actors.reward import Reward

            return Reward(context, make_tokenizer)
        case "replay":
            from ring_async.actors.replay import Replay

            return Replay(context)
        case "learner":
            from ring_async.actors.learner import Learner
            from ring_async.transport.weights import make_weight_sender

            return Learner(context, lambda: _make_train_engine(config), make_weight_sender(config, **channel))
        case "evaluator":
            from ring_async.actors.evaluator import Evaluator
            from ring_async.data.registry import make_source
            from ring_async.transport.weights import make_weight_receiver

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
        from ring_async.engines.embedded import EmbeddedEngine

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
        from ring_async.training.hf import HfTrainEngine

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


# -- inside the launcher


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `failure` is empty when it ended well."""

    failure: str
    exit_code: int


@dataclass(slots=True)
class _Process:
    spec: ActorSpec
    handle: Any
    result: Any


class Launcher:
    """Brings one run up, keeps its processes as the controller wants them, and takes it down."""

    def __init__(self, config: Config, run_dir: RunDir, *, is_resumed: bool = False) -> None:
        self._config = config
        self._run_dir = run_dir
        self._is_resumed = is_resumed
        self._processes: dict[str, _Process] = {}
        self._exits: list[ActorExit] = []
        self._stop_requests = 0
        self._policy = RestartPolicy(config.placement.max_restarts, config.placement.restart_window_s)
        self._controller_incarnation = 0
        self._is_stop_passed_on = False
        self._last_signal_s = float("-inf")

    async def run(self) -> Outcome:
        """Run until the controller says it is finished, or nothing can go on.

        Raises:
            ConfigError: the placement is impossible on this cluster.
        """
        if "RAY_ADDRESS" not in os.environ:
            check_placement(self._config, {"CPU": float(_num_cpus(self._config))}, "this machine")
        self._prepare()
        with _ray_cluster(self._config) as resources, _socket_dir() as socket_dir:
            self._socket_dir = socket_dir
            check_placement(self._config, {"GPU": 0.0} | resources, "the cluster")
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._on_signal)
            try:
                return await self._supervise()
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)
                for process in list(self._processes.values()):
                    self._kill(process)
                if self._config.monitoring.trace:
                    merge_traces(self._run_dir.path)
                self._run_dir.endpoints.unlink(missing_ok=True)

    def _prepare(self) -> None:
        from ring_async.transport.curve import CurveKeys
        from ring_async.verifiers.kept_files import keep_configured

        self._run_dir.create()
        self._run_dir.endpoints.unlink(missing_ok=True)
        self._run_dir.outcome.unlink(missing_ok=True)
        self._config = keep_configured(self._config, self._run_dir.verifiers)
        self._run_dir.config.write_text(dump_config(self._config))
        self._run_dir.point_latest()
        if self._config.transport.kind == "tcp" and not self._run_dir.keys.exists():
            CurveKeys.make_run_keys(self._run_dir.keys)

    def _on_signal(self) -> None:
        """Count requests to stop; a signal that reaches us twice at once (directly and by process group) is one."""
        now_s = monotonic_s()
        if now_s - self._last_signal_s > SIGNAL_DEBOUNCE_S:
            self._stop_requests += 1
        self._last_signal_s = now_s

    # -- supervision

    async def _supervise(self) -> Outcome:
        """Consumes exits of processes / produces starts and kills / waits a moment / freed by time.

        The controller is asked again and again what should run; what runs and should not is killed, what should and
        does not is started. Asking repeatedly makes a lost answer harmless.
        """
        endpoint = await self._start_controller()
        async with self._channel(endpoint) as controller:
            while True:
                self._collect_exits()
                if "controller-0" not in self._processes:
                    endpoint = await self._restart_controller()
                    await controller.redirect(endpoint)
                if self._stop_requests > 1:
                    return Outcome("stopped at once; what was not committed is lost", 130)
                await self._pass_on_stop()
                wanted = await self._ask(controller)
                if wanted is not None:
                    if wanted.is_finished:
                        return await self._finish(wanted)
                    self._reconcile(wanted.actors, endpoint)
                await asyncio.sleep(RECONCILE_S)

    async def _pass_on_stop(self) -> None:
        if self._stop_requests == 1 and not self._is_stop_passed_on:
            from ring_async.control.client import ControlClient

            self._is_stop_passed_on = True
            with contextlib.suppress(RunError):
                await asyncio.to_thread(ControlClient(self._run_dir).post, "/v1/down", {"deadline_s": 20.0})

    async def _ask(self, controller: Any) -> FleetWanted | None:
        exits = tuple(self._exits)
        try:
            answer = (await controller.request(ReportFleet(exits), timeout_s=5.0)).message
        except PeerTimeoutError:
            return None
        self._exits = self._exits[len(exits) :]
        assert isinstance(answer, FleetWanted)
        return answer

    def _reconcile(self, wanted: tuple[ActorSpec, ...], endpoint: str) -> None:
        by_id = {spec.actor_id: spec for spec in wanted}
        for process in list(self._processes.values()):
            actor_id = process.spec.actor_id
            if actor_id != "controller-0" and by_id.get(actor_id) != process.spec:
                self._kill(process)
        for spec in wanted:
            if spec.actor_id not in self._processes:
                self._start(spec, endpoint)

    async def _finish(self, wanted: FleetWanted) -> Outcome:
        """Everybody was told to leave; give the controller a moment to close its journal."""
        import ray

        controller = self._processes.get("controller-0")
        if controller is not None:
            await asyncio.to_thread(ray.wait, [controller.result], timeout=10.0)
        return Outcome(wanted.failure, 3 if wanted.failure else 0)

    # -- processes

    async def _start_controller(self) -> str:
        spec = ActorSpec("controller-0", "controller", self._controller_incarnation)
        self._run_dir.endpoints.unlink(missing_ok=True)
        self._start(spec, "")
        deadline_s = monotonic_s() + self._config.placement.start_timeout_s
        while monotonic_s() < deadline_s:
            if self._run_dir.endpoints.exists():
                return str(self._run_dir.read_endpoints()["control"])
            self._collect_exits()
            if "controller-0" not in self._processes:
                raise ActorFailedError(f"the controller did not start: {self._exits[-1].cause}")
            await asyncio.sleep(0.02)
        raise ActorFailedError(f"the controller did not start within {self._config.placement.start_timeout_s:.0f} s")

    async def _restart_controller(self) -> str:
        self._exits = [gone for gone in self._exits if gone.actor_id != "controller-0"]
        decision = self._policy.on_death("controller-0", monotonic_s(), "its process ended")
        if decision.delay_s is None:
            raise ActorFailedError(decision.reason)
        log.warning(decision.reason)
        await asyncio.sleep(decision.delay_s)
        self._controller_incarnation += 1
        self._is_resumed = True
        return await self._start_controller()

    def _start(self, spec: ActorSpec, endpoint: str) -> None:
        placement = self._config.placement
        launch = ActorLaunch(spec, str(self._run_dir.path), str(self._socket_dir), endpoint, self._is_resumed)
        handle = (
            _host_class()
            .options(  # type: ignore[attr-defined]
                num_cpus=_share(placement.cpus, spec.role),
                num_gpus=_share(placement.gpus, spec.role),
                max_restarts=0,
            )
            .remote()
        )
        self._processes[spec.actor_id] = _Process(spec, handle, handle.live.remote(launch))

    def _kill(self, process: _Process) -> None:
        import ray

        ray.kill(process.handle)
        self._processes.pop(process.spec.actor_id, None)

    def _collect_exits(self) -> None:
        import ray

        for process in list(self._processes.values()):
            done, _ = ray.wait([process.result], timeout=0)
            if not done:
                continue
            try:
                ray.get(process.result)
                cause = "returned"
            except ray.exceptions.RayTaskError as error:
                cause = str(error.cause or error).strip().splitlines()[-1]
            except ray.exceptions.RayActorError:
                cause = "its process was killed"
            spec = process.spec
            self._exits.append(ActorExit(spec.actor_id, spec.incarnation, cause))
            self._kill(process)

    @contextlib.asynccontextmanager
    async def _channel(self, endpoint: str) -> AsyncIterator[Any]:
        from ring_async.transport.channel import ZmqTransport
        from ring_async.transport.curve import CurveKeys

        keys = CurveKeys.load(self._run_dir.keys) if self._config.transport.kind == "tcp" else None
        transport = ZmqTransport("launcher", self._config.transport, self._socket_dir, keys)
        try:
            yield transport.connect(endpoint, peer="controller-0")
        finally:
            await transport.close()


def check_placement(config: Config, there: Mapping[str, float], where: str) -> None:
    """Refuse a fleet that will never fit.

    Args:
        config: what is asked for.
        there: what there is, by Ray's names (`CPU`, `GPU`); a name that is missing is not checked.
        where: that has it, for the message.

    Raises:
        ConfigError: says what is needed, by whom, and what there is.
    """
    placement = config.placement
    for what, ray_name, shares in (("cpus", "CPU", placement.cpus), ("gpus", "GPU", placement.gpus)):
        need = {role: count(config) * _share(shares, role) for role, count in ROLE_COUNTS.items()}
        if sum(need.values()) > there.get(ray_name, float("inf")) + 1e-6:
            parts = ", ".join(f"{role} {amount:g}" for role, amount in need.items() if amount)
            raise ConfigError(
                f"placement.{what}: the fleet needs {sum(need.values()):g} ({parts}), {where} has {there[ray_name]:g}; "
                f"lower rollout.num, reward.num or placement.{what}, or add machines"
            )


def _num_cpus(config: Config) -> int:
    return config.placement.num_cpus or os.cpu_count() or 1


def _share(shares: Mapping[Any, float], role: str) -> float:
    return shares.get(role, 0.0)


def _host_class() -> Any:
    """The Ray actor that hosts one of ours; made late, since importing Ray takes its time."""
    import ray

    class Host:
        """One process. Ray's own restarts are off: the controller decides."""

        def live(self, launch: ActorLaunch) -> None:
            live_actor(launch)

    return ray.remote(Host)


@contextlib.contextmanager
def _ray_cluster(config: Config) -> Any:
    """The existing cluster that RAY_ADDRESS names, or a private one on this machine, gone at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let any other process starve the fleet
    if "RAY_ADDRESS" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": config.run.name}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": _num_cpus(config), "include_dashboard": False, "object_store_memory": 80 << 20}
    ray.init(**options)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _socket_dir() -> Any:
    from ring_async.transport.curve import make_socket_dir

    path = make_socket_dir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)

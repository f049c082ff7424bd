"""The launcher: it turns a configuration into a running fleet.

    Config ──▶ Launcher (this process) ──Ray──▶ one process per actor ──ZMQ──▶ each other
                  │  reports exits ▲ is told what should run
                  └───────── Controller (the one restart authority)

Owns: starting a run, keeping its processes as the controller wants them, and ending it. Does not own what runs in a
process (`placement.actor_process`), where it runs (`placement.places`), nor decisions about restarts, except for the
controller's own restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ring_async.clock import monotonic_s
from ring_async.config.load import dump_config, load_config
from ring_async.config.schema import Config
from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.roster import CONTROLLER_ID, ActorSpec, Role
from ring_async.errors import ActorFailedError, ConfigError, PeerTimeoutError, RunError
from ring_async.placement.actor_process import ActorLaunch
from ring_async.placement.places import ClusterPlaces, OneMachine, Places, check_state_stays
from ring_async.placement.ray_cluster import (
    Place,
    Process,
    has_cluster,
    placement_problems,
    problems_here,
    ray_cluster,
    start_process,
)
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace_parts import merge_traces
from ring_async.transport.base import Outbox
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.messages.fleet import (
    ActorExit,
    ActorWaiting,
    FleetWanted,
    ReportFleet,
)
from ring_async.verifiers.kept_files import keep_configured

log = logging.getLogger(__name__)

RECONCILE_S = 0.2
ASK_TIMEOUT_S = 5.0
SIGNAL_DEBOUNCE_S = 0.3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends the run with a checkpoint."""
PLACE_GRACE_S = 2.0
"""Ray takes a moment to assign or move a place; an actor that has none for longer is reported as waiting."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `failure` is empty when it ended well."""

    failure: str
    exit_code: int


class Launcher:
    """Starts one run, keeps its processes as the controller wants them, and ends it."""

    def __init__(self, config: Config, run_dir: RunDir, *, is_resumed: bool = False) -> None:
        self._config = config
        self._run_dir = run_dir
        self._is_resumed = is_resumed
        self._processes: dict[str, Process] = {}
        self._places: Places = OneMachine()
        self._exits: list[ActorExit] = []
        self._waiting: dict[str, ActorWaiting] = {}
        self._sought_since: dict[str, float] = {}
        self._unexplained: list[tuple[Process, float]] = []
        """Processes that ended, or that were killed as no longer wanted, each with the time of its end."""
        self._stop_requests = 0
        self._policy = RestartPolicy(config.placement.max_restarts, config.placement.restart_window_s)
        self._controller_incarnation = 0
        self._unanswered_s = 0.0
        """Time in which the controller was asked and did not answer, since its last answer."""
        self._endpoint = ""
        """Where the controller listens; its successor asks for the same address."""
        self._is_stop_passed_on = False
        self._last_signal_s = float("-inf")

    async def run(self) -> Outcome:
        """Run until the controller says it is finished, or nothing can go on.

        Raises:
            ConfigError: the placement is impossible on this cluster.
        """
        _refuse(problems_here(self._config))
        self._run_dir.endpoints.unlink(missing_ok=True)
        self._run_dir.outcome.unlink(missing_ok=True)
        is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # whoever starts `nohup ring-async up` means it
        stop_signals = [one for one in STOP_SIGNALS if not (is_nohup and one is signal.SIGHUP)]
        with deaf_to_hangup(), ray_cluster(self._config) as resources, _socket_dir() as socket_dir:
            self._socket_dir = socket_dir
            _refuse(placement_problems(self._config, {"GPU": 0.0} | resources, "the cluster"))
            if has_cluster():
                self._places = ClusterPlaces(self._config)
            await self._places.reserve(self._run_dir.path)
            self._prepare()
            loop = asyncio.get_running_loop()
            for number in stop_signals:
                loop.add_signal_handler(number, self._on_signal, number)
            try:
                return await self._supervise()
            finally:
                for number in stop_signals:
                    loop.remove_signal_handler(number)
                for process in self._processes.values():
                    process.kill()
                if self._config.monitoring.trace:
                    merge_traces(self._run_dir.trace_parts, self._run_dir.trace)
                self._run_dir.endpoints.unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self._is_resumed:
            check_state_stays(load_config(self._run_dir.config), self._config)
        self._run_dir.create()
        # Copies of verifier files named by path; actors on other hosts fetch them (`actors.verifier_files`).
        self._config = keep_configured(self._config, self._run_dir.verifiers)
        self._run_dir.config.write_text(dump_config(self._config))
        self._run_dir.point_latest()
        if self._config.transport.kind == "tcp" and not self._run_dir.keys.exists():
            CurveKeys.make_run_keys(self._run_dir.keys)

    def _on_signal(self, number: int) -> None:
        """Count requests to stop; a signal that reaches us twice at once (directly and by process group) is one."""
        if number == signal.SIGHUP:
            log_instead_of_terminal(self._run_dir.logs / "launcher.log")
        now_s = monotonic_s()
        if now_s - self._last_signal_s > SIGNAL_DEBOUNCE_S:
            self._stop_requests += 1
        self._last_signal_s = now_s

    # -- supervision

    async def _supervise(self) -> Outcome:
        """Consumes exits of processes / produces starts and kills / waits a moment / freed by time.

        The controller is asked again and again which processes should run; missing ones are started and superfluous
        ones killed. Asking repeatedly makes a lost answer harmless.
        """
        self._endpoint = await self._start_controller()
        async with self._channel(self._endpoint) as controller:
            while True:
                self._collect_exits()
                if CONTROLLER_ID not in self._processes:
                    self._endpoint = await self._restart_controller()
                    await controller.redirect(self._endpoint)
                if self._stop_requests > 1:
                    return Outcome("stopped at once; what was not committed is lost", 130)
                await self._pass_on_stop()
                wanted = await self._ask(controller)
                self._end_silent_controller()
                if wanted is not None:
                    if wanted.is_finished:
                        return await self._finish(wanted)
                    self._reconcile(wanted)
                await asyncio.sleep(RECONCILE_S)

    async def _pass_on_stop(self) -> None:
        if self._stop_requests == 1 and not self._is_stop_passed_on:
            from ring_async.control.client import ControlClient

            try:
                await asyncio.to_thread(ControlClient(self._run_dir).post, "/v1/down", {"deadline_s": 20.0})
            except RunError as error:
                log.warning("the controller is told to end the run as soon as it answers: %s", error)
            else:
                self._is_stop_passed_on = True

    async def _ask(self, controller: Outbox) -> FleetWanted | None:
        """What should run; None if the controller did not answer, or has ended meanwhile."""
        exits = tuple(self._exits)
        report = ReportFleet(exits, tuple(self._waiting.values()))
        asking = asyncio.create_task(controller.request(report, timeout_s=ASK_TIMEOUT_S))
        try:
            while not asking.done():
                await asyncio.wait([asking], timeout=RECONCILE_S)
                if not asking.done() and self._processes[CONTROLLER_ID].end_cause() is not None:
                    return None
            answer = asking.result().message
        except PeerTimeoutError:
            self._unanswered_s += ASK_TIMEOUT_S
            return None
        finally:
            asking.cancel()
        self._unanswered_s = 0.0
        self._exits = self._exits[len(exits) :]
        assert isinstance(answer, FleetWanted)
        return answer

    def _end_silent_controller(self) -> None:
        """Kill a controller that has answered nothing for as long as any actor may be silent; it is started again.

        By signal 9: a process that is stopped hears nothing else, and must not wake up beside its successor. Time
        counts by questions that were waited for, so that a machine that stood still as a whole is no silence.
        """
        if self._unanswered_s < self._config.monitoring.heartbeat_timeout_s:
            return
        log.warning("the controller has not answered for %.0f s; its process is killed", self._unanswered_s)
        self._unanswered_s = 0.0
        with contextlib.suppress(ProcessLookupError, RunError):
            os.kill(int(self._run_dir.read_endpoints()["pid"]), signal.SIGKILL)

    def _reconcile(self, wanted: FleetWanted) -> None:
        by_id = {spec.actor_id: spec for spec in wanted.actors}
        for actor_id, process in list(self._processes.items()):
            if actor_id != CONTROLLER_ID and by_id.get(actor_id) != process.spec:
                process.kill()
                self._unexplained.append((self._processes.pop(actor_id), monotonic_s()))
        self._places.keep((CONTROLLER_ID, *wanted.kept))
        self._waiting, now_s = {}, monotonic_s()
        for spec in wanted.actors:
            if spec.actor_id in self._processes or not wanted.may_start:
                continue
            place = self._places.place(spec.actor_id, spec.role)
            if isinstance(place, Place):
                self._start(spec, place)
            elif now_s - self._sought_since.setdefault(spec.actor_id, now_s) > PLACE_GRACE_S:
                self._waiting[spec.actor_id] = ActorWaiting(spec.actor_id, spec.incarnation, place)

    async def _finish(self, wanted: FleetWanted) -> Outcome:
        """After all actors were told to leave, give the controller a moment to close its journal."""
        controller = self._processes.get(CONTROLLER_ID)
        if controller is not None:
            await asyncio.to_thread(controller.end_cause, timeout_s=10.0)
        return Outcome(wanted.failure, 3 if wanted.failure else 0)

    # -- processes

    async def _start_controller(self) -> str:
        spec = ActorSpec(CONTROLLER_ID, Role.CONTROLLER, self._controller_incarnation)
        place = self._places.place(CONTROLLER_ID, Role.CONTROLLER)
        if not isinstance(place, Place):  # the controller is bound to this very host
            raise ActorFailedError(f"the controller cannot start: it waits for {place}")
        self._start(spec, place)
        deadline_s = monotonic_s() + self._config.placement.start_timeout_s
        while monotonic_s() < deadline_s:
            if self._run_dir.endpoints.exists():
                endpoints = self._run_dir.read_endpoints()
                if endpoints["controller_incarnation"] == spec.incarnation:  # else they are its predecessor's
                    return str(endpoints["control"])
            self._collect_exits()
            if CONTROLLER_ID not in self._processes:
                raise ActorFailedError(f"the controller did not start: {self._exits[-1].cause}")
            await asyncio.sleep(0.02)
        raise ActorFailedError(f"the controller did not start within {self._config.placement.start_timeout_s:.0f} s")

    async def _restart_controller(self) -> str:
        cause = "its process ended"
        while True:
            self._exits = [gone for gone in self._exits if gone.actor_id != CONTROLLER_ID]
            decision = self._policy.on_death(CONTROLLER_ID, monotonic_s(), cause)
            if decision.delay_s is None:
                raise ActorFailedError(decision.reason)
            log.warning(decision.reason)
            await asyncio.sleep(decision.delay_s)
            self._controller_incarnation += 1
            self._unanswered_s = 0.0
            self._is_resumed = True
            try:
                return await self._start_controller()
            except ActorFailedError as error:
                cause = str(error)
                if process := self._processes.pop(CONTROLLER_ID, None):
                    process.kill()

    def _start(self, spec: ActorSpec, place: Place) -> None:
        launch = ActorLaunch(
            spec,
            dump_config(self._config),
            str(self._run_dir.path),
            str(Path.cwd()),
            str(self._socket_dir),
            self._endpoint,
            self._is_resumed,
            place.address,
            None if place.is_launchers else self._keys(),
        )
        self._processes[spec.actor_id] = start_process(launch, place, self._config)
        self._sought_since.pop(spec.actor_id, None)

    def _collect_exits(self) -> None:
        for actor_id, process in list(self._processes.items()):
            if (cause := process.end_cause()) is not None:
                is_lost = self._places.is_lost(process.place)
                cause = f"its host {process.place.address} is gone" if is_lost else cause
                self._exits.append(ActorExit(actor_id, process.spec.incarnation, cause, is_host_lost=is_lost))
                self._processes.pop(actor_id).kill()
                if not is_lost and actor_id != CONTROLLER_ID:
                    self._unexplained.append((process, monotonic_s()))
        self._unexplained = [(one, ended_s) for one, ended_s in self._unexplained if not self._explain(one, ended_s)]

    def _explain(self, process: Process, ended_s: float) -> bool:
        """Report that a process ended because its host was lost, once Ray says so.

        The controller counted the end as a death: it notices the end of a process, or missed heartbeats, at once, while
            Ray takes up to a minute to report a lost host. Returns whether the cause is settled.
        """
        if self._places.is_lost(process.place, max_age_s=RECONCILE_S):
            spec = process.spec
            self._exits.append(ActorExit(spec.actor_id, spec.incarnation, "its host is gone", is_host_lost=True))
            return True
        return monotonic_s() - ended_s > self._config.placement.restart_window_s

    def _keys(self) -> CurveKeys | None:
        return CurveKeys.load(self._run_dir.keys) if self._config.transport.kind == "tcp" else None

    @contextlib.asynccontextmanager
    async def _channel(self, endpoint: str) -> AsyncIterator[Outbox]:
        from ring_async.transport.channel import ZmqTransport

        transport = ZmqTransport("launcher", self._config.transport, self._socket_dir, self._keys())
        try:
            yield transport.connect(endpoint, peer=CONTROLLER_ID)
        finally:
            await transport.close()


@contextlib.contextmanager
def deaf_to_hangup() -> Iterator[None]:
    """Ignore SIGHUP, in processes that start meanwhile too.

    A terminal that closes sends it to all of them, and the fleet must live until it has written its checkpoint.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def log_instead_of_terminal(path: Path) -> None:
    """Send what this process prints from now on to a file: its terminal is gone, and writing there would fail."""
    with path.open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


@contextlib.contextmanager
def _socket_dir() -> Iterator[Path]:
    path = make_socket_dir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)

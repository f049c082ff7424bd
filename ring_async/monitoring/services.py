"""What `up` starts beside a fleet so that people see it: Prometheus, Grafana, boards.

    up ──▶ WatchedRun ──▶ grafana-server   before the fleet, if managed
                     ├──▶ prometheus/      files for any Prometheus, kept up to date
                     ├──▶ prometheus       once the controller listens, if managed
                     └──▶ boards           pushed once, if a Grafana is configured

Owns: the order, and that nothing of it can stop the run. Does not own the servers (`prometheus`, `grafana.server`) or
the boards (`grafana.push`). Annotations are the controller's (`grafana.annotations`).
Invariants: what fails is said once, and training goes on; `close` leaves no process behind.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx

from ring_async.config.schema import Config
from ring_async.errors import RingAsyncError
from ring_async.monitoring.prometheus import ManagedPrometheus, PrometheusFiles, prometheus_program
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.sinks.registry import sink_problems

T = TypeVar("T")

LOOK_S = 0.5


class WatchedRun:
    """The services beside one run.

    Args:
        config: of the run.
        run_dir: of the run; it need not exist yet.
        say: shows a person one line.
    """

    def __init__(self, config: Config, run_dir: RunDir, say: Callable[[str], None]) -> None:
        self._config = config
        self._run_dir = run_dir
        self._say = say
        self._said: set[str] = set()
        self._ending = threading.Event()
        self._servers = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._serve, name="monitoring", daemon=True)
        if config.monitoring.grafana.managed:
            self._attempt(self._start_grafana)
        self._thread.start()

    def close(self) -> None:
        """End all servers, and wait for them."""
        self._ending.set()
        self._thread.join()
        self._servers.close()

    def _start_grafana(self) -> None:
        from ring_async.monitoring.grafana.server import ManagedGrafana

        self._run_dir.create()
        server = ManagedGrafana(self._run_dir)
        self._servers.callback(server.close)

    def _serve(self) -> None:
        """Consumes the run's endpoints / produces servers and boards / waits for the controller / freed by `close`."""
        while not self._run_dir.endpoints.exists():
            if self._ending.wait(LOOK_S):
                return
        files = PrometheusFiles(self._run_dir, scrape_interval_s=self._config.monitoring.scrape_s)
        self._attempt(files.follow)
        prometheus = None
        if self._config.monitoring.prometheus == "managed":
            prometheus = self._attempt(lambda: self._start_prometheus(files))
        if self._config.monitoring.grafana.is_wanted:
            self._attempt(lambda: self._push(prometheus.url if prometheus else ""))
        while not self._ending.wait(LOOK_S):
            if self._attempt(files.follow) and prometheus is not None:
                self._attempt(prometheus.reload)

    def _start_prometheus(self, files: PrometheusFiles) -> ManagedPrometheus:
        server = ManagedPrometheus(self._run_dir, files)
        self._servers.callback(server.close)
        self._say(f"Prometheus: {server.url}")
        return server

    def _push(self, managed_url: str) -> None:
        from ring_async.monitoring.grafana.boards import BOARDS
        from ring_async.monitoring.grafana.push import push
        from ring_async.monitoring.grafana.server import grafana_of

        section = self._config.monitoring.grafana
        if (grafana := grafana_of(section, self._run_dir)) is None:
            return
        url = section.prometheus_url or managed_url
        first, *_ = push(grafana, BOARDS, folder=section.folder, prometheus_url=url)
        self._say(f"Grafana: {first.url}?var-run={self._config.run.name}")

    def _attempt(self, step: Callable[[], T]) -> T | None:
        """Take a step; its failure is said, unless the same one was said before."""
        try:
            return step()
        except (RingAsyncError, OSError, httpx.HTTPError) as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                self._say(f"monitoring: {error}; training goes on")
            return None


@contextlib.contextmanager
def watched(config: Config, run_dir: RunDir, say: Callable[[str], None]) -> Iterator[None]:
    """Have the configured services beside the run as long as the block lasts; none without metrics."""
    if not config.monitoring.prometheus:
        yield
        return
    services = WatchedRun(config, run_dir, say)
    try:
        yield
    finally:
        services.close()


def service_problems(config: Config) -> Iterator[str]:
    """Why the configured services cannot be had on this machine, one line each."""
    from ring_async.monitoring.grafana.server import grafana_program, token_of

    monitoring = config.monitoring
    yield from sink_problems(tensorboard=monitoring.tensorboard, wandb_project=monitoring.wandb)
    needs: list[Callable[[], str]] = []
    if monitoring.prometheus == "managed":
        needs.append(prometheus_program)
    if monitoring.grafana.managed:
        needs.append(grafana_program)
    if monitoring.grafana.url:
        needs.append(lambda: token_of(monitoring.grafana))
    for need in needs:
        try:
            need()
        except RingAsyncError as problem:
            yield str(problem)

"""Prometheus over one run: files that any Prometheus can use, and, if wanted, one that is started with the run.

    endpoints.json ──address, token──▶ prometheus/prometheus.yml ──HTTP service discovery──▶ /metrics of every actor
                                       prometheus/rules.yaml     ──▶ records and alerts

Owns: the files, and when they are written again. Does not own Prometheus' process (`child_server`), the text of its
configuration (`telemetry.discovery`), nor the rules (`rules.yaml`, which ships beside this file).
Invariants: the files name each other relative to their folder, so it can be mounted anywhere; the token's file is for
its owner alone; a managed Prometheus listens on loopback, and its data stays in the run's folder.
"""

from __future__ import annotations

import json
import os
from importlib import resources

import httpx

from ring_async.monitoring.child_server import ChildServer, find_program, free_port
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.discovery import prometheus_config

HOST = "127.0.0.1"


def rules_text() -> str:
    """The recording and alert rules."""
    return resources.files("ring_async.monitoring").joinpath("rules.yaml").read_text(encoding="utf-8")


class PrometheusFiles:
    """The folder `prometheus` of a run: `prometheus --config.file=runs/latest/prometheus/prometheus.yml` watches it.

    files = PrometheusFiles(run_dir)
    files.follow()                     # True: written; again after the controller was started anew
    """

    def __init__(self, run_dir: RunDir, *, scrape_interval_s: float = 10.0) -> None:
        self._endpoints = run_dir.endpoints
        self._scrape_interval_s = scrape_interval_s
        self._known = ""
        self.folder = run_dir.path / "prometheus"

    @property
    def config(self) -> str:
        """Path of the configuration."""
        return str(self.folder / "prometheus.yml")

    def follow(self) -> bool:
        """Write the files for the controller's present address; returns whether it has changed."""
        try:
            text = self._endpoints.read_text(encoding="utf-8")
            endpoints = json.loads(text)
        except (OSError, ValueError):
            return False  # the controller is being started again
        if text == self._known:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rules.yaml").write_text(rules_text(), encoding="utf-8")
        self._write_token(endpoints["token"])
        certificate = endpoints.get("certificate") or ""
        if certificate:
            (self.folder / "certificate.pem").write_text(certificate, encoding="utf-8")
        config = prometheus_config(
            f"{endpoints['api']}/v1/discovery",
            token_file="token",  # noqa: S106 - the name of a file
            scrape_interval_s=self._scrape_interval_s,
            rule_files=["rules.yaml"],
            ca_file="certificate.pem" if certificate else "",
        )
        (self.folder / "prometheus.yml").write_text(config, encoding="utf-8")
        self._known = text
        return True

    def _write_token(self, token: str) -> None:
        descriptor = os.open(self.folder / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(token)


class ManagedPrometheus:
    """A Prometheus of one run that is up.

        server = ManagedPrometheus(run_dir, files)     # ready when this returns
        server.url                                     # http://127.0.0.1:40817
        server.reload()                                # after the files were written again
        server.close()

    Raises:
        RunError: there is no `prometheus` on PATH, or it does not start.
    """

    def __init__(self, run_dir: RunDir, files: PrometheusFiles) -> None:
        program = prometheus_program()
        port = free_port(HOST)
        self.url = f"http://{HOST}:{port}"
        command = [
            program,
            f"--config.file={files.config}",
            f"--storage.tsdb.path={files.folder / 'data'}",
            "--storage.tsdb.retention.time=90d",
            f"--web.listen-address={HOST}:{port}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]
        self._server = ChildServer(command, f"{self.url}/-/ready", run_dir.logs / "prometheus.log")

    @property
    def pid(self) -> int:
        return self._server.pid

    def reload(self) -> None:
        """Have Prometheus read its files again.

        Raises:
            httpx.HTTPError: it does not answer.
        """
        httpx.post(f"{self.url}/-/reload", timeout=5.0, trust_env=False).raise_for_status()

    def close(self) -> None:
        """End Prometheus; its data stays. Idempotent."""
        self._server.close()


def prometheus_program() -> str:
    """The path of Prometheus.

    Raises:
        RunError: there is none on PATH.
    """
    return find_program("prometheus", "monitoring.prometheus", "apt-get install prometheus, or set it to true")

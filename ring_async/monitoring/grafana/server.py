"""A Grafana for one run: the `grafana-server` found on PATH, started and ended with the run.

Owns: its settings, its password, and the file in which the controller finds both. Does not own its process
(`child_server`), nor what is pushed to it (`push`).
Invariants: it listens on loopback alone; whoever may read the run's folder may log in, nobody else.
"""

from __future__ import annotations

import json
import os
import secrets

from ring_async.config.monitoring import TOKEN_VARIABLE, GrafanaSection
from ring_async.errors import ConfigError
from ring_async.monitoring.child_server import ChildServer, find_program, free_port
from ring_async.monitoring.grafana.client import Grafana
from ring_async.storage.run_dir import RunDir, write_json

HOST = "127.0.0.1"
USER = "admin"
START_S = 60.0
"""Its first start fills a database."""


class ManagedGrafana:
    """Grafana beside one run. It has no boards until they are pushed.

    Raises:
        RunError: there is no `grafana-server` on PATH, or it does not start.
    """

    def __init__(self, run_dir: RunDir) -> None:
        program = grafana_program()
        folder = run_dir.path / "grafana"
        folder.mkdir(parents=True, exist_ok=True)
        port, password = free_port(HOST), secrets.token_urlsafe(16)
        self.url = f"http://{HOST}:{port}"
        settings = {
            "GF_SERVER_HTTP_ADDR": HOST,
            "GF_SERVER_HTTP_PORT": str(port),
            "GF_SECURITY_ADMIN_USER": USER,
            "GF_SECURITY_ADMIN_PASSWORD": password,
            "GF_PATHS_DATA": str(folder),
            "GF_PATHS_LOGS": str(folder),
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_USERS_DEFAULT_THEME": "system",
        }
        home = os.environ.get("GRAFANA_HOME", "/usr/share/grafana")
        # a database of an earlier start keeps its password, so each start has a fresh one
        (folder / "grafana.db").unlink(missing_ok=True)
        self._known = run_dir.path / "grafana.json"
        self._server = ChildServer(
            [program, "--homepath", home],
            f"{self.url}/api/health",
            run_dir.logs / "grafana.log",
            environment=os.environ | settings,
            start_s=START_S,
        )
        write_json(self._known, {"url": self.url, "user": USER, "password": password}, mode=0o600)

    def close(self) -> None:
        """End Grafana. Idempotent."""
        self._known.unlink(missing_ok=True)
        self._server.close()


def grafana_of(section: GrafanaSection, run_dir: RunDir) -> Grafana | None:
    """The Grafana that the configuration names; None if it names none, or the managed one did not start.

    Raises:
        ConfigError: `url` is given and there is no token.
    """
    if section.url:
        return Grafana(section.url, token_of(section))
    try:
        known = json.loads((run_dir.path / "grafana.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Grafana(known["url"], (known["user"], known["password"]))


def grafana_program() -> str:
    """The path of Grafana's server.

    Raises:
        RunError: there is none on PATH.
    """
    return find_program("grafana-server", "monitoring.grafana", "install Grafana, or give monitoring.grafana.url")


def token_of(section: GrafanaSection) -> str:
    """The token for `url`.

    Raises:
        ConfigError: there is none, or its file cannot be read.
    """
    if token := section.token():
        return token
    raise ConfigError(f"monitoring.grafana.url: needs a token, in monitoring.grafana.token_file or ${TOKEN_VARIABLE}")

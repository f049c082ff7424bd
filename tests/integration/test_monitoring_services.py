"""What `up` starts beside a fleet: servers begin and end with the run, and nothing of it can stop the run."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from grafana_stub import grafana_stub
from ring_async.errors import ConfigError, RunError
from ring_async.monitoring.child_server import ChildServer, find_program, free_port
from ring_async.monitoring.grafana.server import ManagedGrafana, grafana_of
from ring_async.monitoring.prometheus import ManagedPrometheus, PrometheusFiles
from ring_async.monitoring.services import service_problems, watched
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.testing.builders import make_config

FAKE_GRAFANA = f"""#!{sys.executable}
import http.server, os
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
address = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
assert os.environ["GF_SECURITY_ADMIN_PASSWORD"]
http.server.HTTPServer(address, Health).serve_forever()
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "runs" / "local")
    run_dir.create()
    return run_dir


def announce(run_dir: RunDir, **endpoints: Any) -> None:
    write_json(run_dir.endpoints, {"api": "http://127.0.0.1:9", "token": "t", "certificate": ""} | endpoints)


def wait_until(is_so) -> None:
    end_s = time.monotonic() + 30.0
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


# -- Prometheus


def test_the_files_follow_the_controller_and_guard_the_token(run_dir: RunDir):
    files = PrometheusFiles(run_dir)
    assert not files.follow(), "the controller is not up"
    announce(run_dir, api="http://127.0.0.1:4001", token="first")
    assert (files.follow(), files.follow()) == (True, False)
    announce(run_dir, api="https://127.0.0.1:4002", token="second", certificate="PEM")
    assert files.follow()
    text = (files.folder / "prometheus.yml").read_text()
    assert "https://127.0.0.1:4002/v1/discovery" in text
    assert str(run_dir.path) not in text, "files name each other relative to their folder"
    assert (files.folder / "token").read_text() == "second"
    assert stat.S_IMODE((files.folder / "token").stat().st_mode) == 0o600
    assert (files.folder / "certificate.pem").read_text() == "PEM"


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs a Prometheus: apt-get install prometheus")
def test_a_managed_prometheus_reads_its_files_again_and_leaves_nothing_behind(run_dir: RunDir):
    announce(run_dir)
    files = PrometheusFiles(run_dir)
    files.follow()
    server = ManagedPrometheus(run_dir, files)
    try:
        announce(run_dir, api="http://127.0.0.1:10")
        assert files.follow()
        server.reload()
        answer = httpx.get(f"{server.url}/api/v1/status/config", trust_env=False).json()
        assert "http://127.0.0.1:10/v1/discovery" in answer["data"]["yaml"]
    finally:
        server.close()
        server.close()
    assert not psutil.pid_exists(server.pid)


# -- Grafana


def test_a_managed_grafana_is_found_by_the_controller_and_forgotten_at_its_end(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "grafana-server"
    program.write_text(FAKE_GRAFANA)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    section = make_config(monitoring__grafana={"managed": True}).monitoring.grafana
    assert grafana_of(section, run_dir) is None
    server = ManagedGrafana(run_dir)
    try:
        known = run_dir.path / "grafana.json"
        assert stat.S_IMODE(known.stat().st_mode) == 0o600
        found = grafana_of(section, run_dir)
        assert found is not None
        assert found.url == server.url
        assert json.loads(known.read_text())["password"] not in (run_dir.logs / "grafana.log").read_text()
    finally:
        server.close()
    assert grafana_of(section, run_dir) is None


def test_a_grafana_without_a_token_is_refused_before_the_run(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    config = make_config(monitoring__grafana={"url": "http://grafana:3000"})
    (problem,) = service_problems(config)
    assert "$GRAFANA_TOKEN" in problem
    with pytest.raises(ConfigError, match="needs a token"):
        grafana_of(config.monitoring.grafana, run_dir)
    lost = make_config(monitoring__grafana={"url": "http://grafana:3000", "token_file": "/no/such/file"})
    (problem,) = service_problems(lost)
    assert "monitoring.grafana.token_file: " in problem


def test_a_grafana_that_is_away_is_said_once_and_the_run_goes_on(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_test")
    said: list[str] = []
    with grafana_stub() as stub:
        stub.is_away = True
        config = make_config(monitoring__grafana={"url": stub.url})
        with watched(config, run_dir, said.append):
            announce(run_dir)
            wait_until(lambda: said)
            announce(run_dir, token="second")
            wait_until(lambda: (run_dir.path / "prometheus" / "token").read_text() == "second")
    assert len(said) == 1
    assert said[0].startswith("monitoring: ")
    assert said[0].endswith("training goes on")


def test_a_run_that_never_comes_up_ends_all_the_same(run_dir: RunDir):
    with watched(make_config(), run_dir, print):
        pass


# -- servers


def test_a_server_that_ends_shows_its_last_words(tmp_path: Path):
    command = [sys.executable, "-c", "print('no such flag'); raise SystemExit(2)"]
    with pytest.raises(RunError, match=r"ended with exit code 2:\nno such flag"):
        ChildServer(command, f"http://127.0.0.1:{free_port()}", tmp_path / "log")


def test_a_server_that_is_never_ready_is_ended(tmp_path: Path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(RunError, match="was not ready within"):
        ChildServer(command, f"http://127.0.0.1:{free_port()}", tmp_path / "log", start_s=0.2)


def test_a_missing_program_is_named_with_its_key_and_a_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match=r"monitoring\.grafana: managed, but there is no grafana-server on PATH; get it"):
        find_program("grafana-server", "monitoring.grafana", "get it")
    config = make_config(monitoring__prometheus="managed", monitoring__grafana={"managed": True})
    assert len(list(service_problems(config))) == 2


@pytest.mark.parametrize(
    ("monitoring", "said"),
    [
        ({"grafana": {"url": "http://g", "managed": True}}, "exclude each other"),
        ({"prometheus": False, "grafana": {"url": "http://g"}}, "would be empty"),
        ({"grafana": {"url": "ftp://g"}}, "monitoring.grafana.url"),
        ({"prometheus": "perhaps"}, "monitoring.prometheus"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(monitoring: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        make_config(**{f"monitoring__{key}": value for key, value in monitoring.items()})

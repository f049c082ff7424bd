"""A real run watched by a real Prometheus: every panel, every rule, every declared series; marks in a stand-in for
Grafana.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import httpx
import psutil
import pytest

from grafana_stub import TOKEN, GrafanaStub, grafana_stub
from live_fleet import LiveFleet, cli, fleet
from prometheus_api import PrometheusApi
from ring_async.core.roster import Role
from ring_async.monitoring.grafana.boards import BOARDS
from ring_async.monitoring.grafana.panels import RATE
from ring_async.telemetry import metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("promtool") is None, reason="needs Debian's prometheus: apt-get install prometheus"
    ),
]

RUN = "watched"
PROMTOOL_METRICS = ["promtool", "check", "metrics"]
NEVER_HERE = {"faults", "rollout.engine: sglang"}
"""Panels that may be empty here, by what they need."""
OVERRIDES = (
    "stop.policy_versions=9999",
    "budget.token_budget=768",
    "checkpoint.every_versions=5",
    "placement.num_cpus=4",
    "monitoring.prometheus=managed",
    "monitoring.scrape_s=2",
    "evaluation.every_versions=3",
    "evaluation.num_problems=8",
    "sources.gaps.kind=jsonl",
    "sources.gaps.path=configs/data/gaps.jsonl",
    "sources.gaps.verifier=code",
    "verifiers.code.use=code",
    "mixture.gaps=1",
    "mixture.leg_counting=0",
    "difficulty.chain_sum={by: num_terms, low: 4, high: 4}",
)

UNMOVED = {
    "ring_actor_gpu_memory_bytes": "a GPU",
    "ring_learner_mfu_ratio": "a GPU",
    "ring_rollout_kv_age_versions": "rollout.engine: sglang",
    "ring_rollout_server_restarts_total": "rollout.engine: sglang",
    "ring_rollout_failed_groups_total": "a fault",
    "ring_rollout_purged_tokens_total": "a response that takes longer than max_staleness versions",
    "ring_reward_failures_total": "a fault",
    "ring_evaluator_failures_total": "a fault",
    "ring_learner_nonfinite_tokens_total": "a fault",
    "ring_learner_masked_tokens_ratio": "a ratio beyond the correction's bounds in the last batch",
    "ring_controller_reissued_groups_total": "a fault",
    "ring_controller_restarts_total": "a fault",
    "ring_controller_unusable_prompts_total": "a prompt that is too long for the model",
    "ring_controller_ledger_mismatches_total": "a fault",
    "ring_controller_refused_requests_total": "a stranger's call",
    "ring_transport_rejected_frames_total": "a fault",
    "ring_transport_resent_messages_total": "a fault",
    "ring_transport_credit_wait_seconds_total": "a sender that outruns its receiver",
    "ring_replay_evicted_trajectories_total": "trajectories past their bound, which admission avoids",
    "ring_reward_verifier_epoch": "a swap: the first epoch is 0",
    "ring_rollout_waiting_requests": "more requests than slots, which the loop that takes work avoids",
    "ring_rollout_version_lag_versions": "a version published since the last heartbeat",
}
"""Declared series that a healthy run on a CPU need not move, and what moves them."""


class Watched:
    """What was seen of one run: answers of its Prometheus while it went on, and what its Grafana was sent."""

    def __init__(self, live: LiveFleet, grafana: GrafanaStub) -> None:
        self.live = live
        self.grafana = grafana
        live.wait_until(lambda: "Grafana: " in self._output(), "boards in Grafana")
        self.url = re.search(r"Prometheus: (\S+)", self._output())[1]
        self._prometheus = PrometheusApi(self.url)
        self.has_data: dict[str, bool] = {}
        self.values: dict[str, float] = {}
        self.rules: list[dict[str, Any]] = []
        self.lint: dict[str, list[str]] = {}
        self.servers: list[psutil.Process] = []

    @property
    def is_scraped(self) -> bool:
        """Whether every actor, and the series that comes last, were scraped twice: a rate needs two points."""
        last = self._prometheus.query(f'count_over_time(ring_evaluator_solved_ratio{{run="{RUN}"}}[5m]) >= 2')
        actors = self._prometheus.query(f'sum_over_time(up{{run="{RUN}"}}[5m]) >= 2')
        return bool(last) and len(actors) == len(Role)

    def look(self) -> None:
        """Ask for everything."""
        ask = self._prometheus
        expressions = [query.expression for board in BOARDS for panel in board.panels for query in panel.queries]
        self.has_data = {expression: ask.has_data(present(expression)) for expression in expressions}
        self.rules = ask.rules()
        for rule in self.rules:
            ask.query(rule["query"])
        for declared in metrics.declarations():
            name = f"{declared.name}_count" if declared.kind == "histogram" else declared.name
            found = ask.query(f'max({name}{{run="{RUN}"}})')
            self.values[declared.name] = max((float(one["value"][1]) for one in found), default=0.0)
        self.lint = self._lint()
        folder = str(self.live.run_dir.path / "prometheus")
        everybody = psutil.process_iter(["cmdline"])
        self.servers = [one for one in everybody if folder in " ".join(one.info["cmdline"] or ())]

    def change_during_an_outage(self) -> None:
        """A setting is changed while Grafana is away."""
        live, grafana = self.live, self.grafana
        grafana.is_away = True
        done = cli("set", "learner.learning_rate=1e-5", "--runs", str(live.runs), "--run", RUN)
        assert done.returncode == 0, done.stderr
        live.wait_until(lambda: bool(live.events("monitoring_lost")), "word of the outage")
        live.wait_version(live.steps()[-1]["policy_version"] + 1)
        grafana.is_away = False
        live.wait_until(lambda: self.marks("knobs_changed"), "the mark of a change made meanwhile")

    def marks(self, kind: str) -> list[str]:
        """The texts of the annotations of one kind."""
        return [one["text"] for one in self.grafana.annotations if kind in one["tags"]]

    def _lint(self) -> dict[str, list[str]]:
        """What promtool says of the metrics that each actor serves."""
        token = (self.live.run_dir.path / "prometheus" / "token").read_text()
        url = f"{self.live.run_dir.read_endpoints()['api']}/v1/discovery"
        said = {}
        for target in httpx.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False).json():
            text = httpx.get(f"http://{target['targets'][0]}/metrics", trust_env=False).text
            done = subprocess.run(PROMTOOL_METRICS, input=text, capture_output=True, text=True, check=False)
            said[target["labels"]["actor"]] = [line for line in done.stderr.splitlines() if line.startswith("ring_")]
        return said

    def _output(self) -> str:
        return (self.live.runs / "up.txt").read_text()


def present(expression: str) -> str:
    return expression.replace("$run", RUN).replace(RATE, "5m")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    runs = tmp_path_factory.mktemp("runs")
    token = runs / "token"
    token.write_text(TOKEN)
    with grafana_stub() as grafana:
        where = (f"monitoring.grafana.url={grafana.url}", f"monitoring.grafana.token_file={token}")
        with fleet(runs, RUN, *OVERRIDES, *where) as live:
            watched = Watched(live, grafana)
            live.wait_until(live.run_dir.evaluations.exists, "an evaluation", 200.0)
            live.wait_until(lambda: watched.is_scraped, "two scrapes of every actor", 60.0)
            watched.look()
            watched.change_during_an_outage()
            assert cli("down", "--runs", str(runs), "--run", RUN).returncode == 0
            assert live.wait_end() == 0, live.output()
    return watched


def test_every_query_of_every_panel_gives_data(watched: Watched):
    empty = [
        (board.uid, panel.title, query.expression)
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        if panel.only not in NEVER_HERE and not watched.has_data[query.expression]
    ]
    assert empty == []


def test_every_rule_is_evaluated_and_a_healthy_run_fires_none(watched: Watched):
    assert len(watched.rules) == 20
    assert {rule["name"]: rule.get("lastError") for rule in watched.rules if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in watched.rules if rule.get("state") == "firing"] == []


def test_every_declared_series_moves(watched: Watched):
    unmoved = {name for name, value in watched.values.items() if value <= 0}
    assert unmoved - UNMOVED.keys() == set()
    assert UNMOVED.keys() <= watched.values.keys()


def test_what_actors_serve_satisfies_promtool(watched: Watched):
    assert set(watched.lint) == {f"{role}-0" for role in Role}
    assert {actor: lines for actor, lines in watched.lint.items() if lines} == {}


def test_the_files_of_the_run_serve_any_prometheus(watched: Watched):
    config = watched.live.run_dir.path / "prometheus" / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_marks_of_changes_survive_an_outage_and_come_once(watched: Watched):
    assert watched.grafana.invalid == []
    assert len(watched.marks("knobs_changed")) == 1
    assert len(watched.live.events("monitoring_lost")) == 1
    own = [tag for one in watched.grafana.annotations for tag in one["tags"] if tag.startswith(f"{RUN}-")]
    assert len(own) == len(set(own))
    assert watched.marks("checkpoint_saved")
    assert watched.marks("stopping")


def test_prometheus_ends_with_the_run(watched: Watched):
    assert watched.servers
    assert not any(server.is_running() for server in watched.servers)

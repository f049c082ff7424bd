from __future__ import annotations

import yaml

from ring_async.telemetry.discovery import prometheus_config, scrape_targets
from ring_async.transport.messages.fleet import Member


def member(actor_id: str, metrics_endpoint: str, incarnation: int = 0) -> Member:
    role = actor_id.split("-", maxsplit=1)[0]
    return Member(actor_id, role, incarnation, 1, "host", "ipc://c", "ipc://d", metrics_endpoint)


def test_targets_are_the_members_that_serve_metrics():
    members = [member("rollout-0", "127.0.0.1:9001"), member("learner-0", "127.0.0.1:9000", 3), member("reward-0", "")]
    assert scrape_targets(members, run="local") == [
        {"targets": ["127.0.0.1:9000"], "labels": {"run": "local", "role": "learner", "actor": "learner-0"}},
        {"targets": ["127.0.0.1:9001"], "labels": {"run": "local", "role": "rollout", "actor": "rollout-0"}},
    ]


def test_a_restart_keeps_the_labels_so_that_series_go_on():
    before, after = (scrape_targets([member("learner-0", "h:1", start)], run="r") for start in (0, 1))
    assert before == after


def test_the_scrape_configuration_asks_the_controller():
    document = yaml.safe_load(prometheus_config("http://127.0.0.1:8000/v1/discovery", token_file="/run/token"))
    (job,) = document["scrape_configs"]
    assert job["http_sd_configs"] == [
        {
            "url": "http://127.0.0.1:8000/v1/discovery",
            "refresh_interval": "10s",
            "authorization": {"type": "Bearer", "credentials_file": "/run/token"},
        }
    ]
    assert "authorization" not in prometheus_config("http://x/")

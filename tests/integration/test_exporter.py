"""`/metrics` over a real socket: served while open, gone when closed."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from ring_async.telemetry.exporter import Exporter


def read(endpoint: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=5) as answer:
        return answer.read().decode()


def test_metrics_are_served_until_closed():
    registry = CollectorRegistry()
    Counter("ring_rollout_generated_tokens", "test", registry=registry).inc(31)
    Counter("ring_learner_steps", "test", registry=registry).inc(2)
    with Exporter("rollout", registry=registry) as exporter:
        assert exporter.host == "127.0.0.1"
        text = read(exporter.endpoint)
        assert "ring_rollout_generated_tokens_total 31.0" in text
        assert "ring_learner_steps" not in text
    with pytest.raises(urllib.error.URLError):
        read(exporter.endpoint)


def test_a_role_serves_its_own_metrics_and_those_of_every_process():
    with Exporter("reward") as exporter:
        text = read(exporter.endpoint)
    assert "process_cpu_seconds_total " in text
    assert "ring_actor_event_loop_lag_seconds_count" in text
    assert "ring_reward_" in text
    assert "ring_learner_" not in text
    assert "_created" not in text


def test_prometheus_gets_plain_text_whatever_it_asks_for():
    accept = {"accept": "application/openmetrics-text;version=1.0.0", "accept-encoding": "gzip"}
    with Exporter("reward") as exporter:
        request = urllib.request.Request(f"http://{exporter.endpoint}/metrics", headers=accept)
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.headers.get("content-encoding") is None


def test_closing_twice_is_harmless_and_the_port_is_free_again():
    first = Exporter(registry=CollectorRegistry())
    first.close()
    first.close()
    with Exporter(registry=CollectorRegistry(), port=first.port) as second:
        assert second.port == first.port


def test_a_port_in_use_is_an_error_at_once():
    with Exporter(registry=CollectorRegistry()) as first, pytest.raises(OSError, match="in use"):
        Exporter(registry=CollectorRegistry(), port=first.port)

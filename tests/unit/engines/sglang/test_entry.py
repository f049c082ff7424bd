"""Whether `rollout.engine: sglang` can work here, said beforehand."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from ring_async.engines.registry import engine_host_problems, engine_problems, make_engine
from ring_async.engines.sglang import entry
from ring_async.engines.sglang.versions import release_of
from ring_async.errors import ConfigError
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config

GPU = {"rollout__engine": "sglang", "placement__gpus": {"rollout": 1.0}, "rollout__on_update": "keep"}


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.17")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [SimpleNamespace(name="ring_async")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, None),
        ({"rollout__max_kv_age": 2}, None),
        ({"rollout__max_kv_age": 4}, "can do nothing: replay.max_staleness 4"),
        ({"rollout__max_kv_age": 2, "rollout__on_update": "abort"}, "under keep alone"),
        ({"placement__gpus": {}}, "placement.gpus.rollout is 0"),
        ({"placement__gpus": {}, "rollout__engine_options": {"address": "http://127.0.0.1:30000"}}, None),
        ({"rollout__engine_options": {"attention_backend": "triton"}}, "server_args"),
        ({"rollout__num": 2, "rollout__engine_options": {"address": "http://127.0.0.1:30000"}}, "names one server"),
        ({"evaluation__every_versions": 2}, "placement.gpus.evaluator is 0"),
        ({"evaluation__every_versions": 2, "placement__gpus": {"rollout": 1.0, "evaluator": 0.5}}, None),
        ({"rollout__engine_options": {"start_deadline_s": 120.0}}, "not below placement.start_timeout_s 120"),
    ],
)
def test_settings(overrides: dict[str, object], words: str | None) -> None:
    problems = engine_problems(make_config(**{**GPU, **overrides}))
    assert len(problems) == (0 if words is None else 1)
    assert words is None or words in problems[0]


@pytest.mark.usefixtures("_installed")
def test_keep_needs_the_plugin_where_the_server_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])
    (problem,) = engine_host_problems(make_config(**GPU))
    assert "would not find the plugin" in problem
    assert not engine_host_problems(make_config(**{**GPU, "rollout__on_update": "reprefill"}))


def test_a_missing_package_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(entry.importlib.util, "find_spec", lambda _: None)
    problems = engine_host_problems(make_config(**GPU))
    assert [("aiohttp" in problem, "package sglang" in problem) for problem in problems] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("version", "has_sessions"), [("0.5.17", False), ("0.5.20.post1", False), ("0.5.21", True), ("0.6.0", True)]
)
def test_the_row_of_a_release(version: str, has_sessions: bool) -> None:
    assert release_of(version).has_update_sessions == has_sessions


@pytest.mark.parametrize("version", ["0.5.16", "0.4.9", "unknown"])
def test_a_release_without_a_row_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine"):
        release_of(version)


def test_the_registry_builds_an_engine_and_starts_nothing(tmp_path: Path) -> None:
    options = {"address": "http://127.0.0.1:30000/", "device": "cpu", "stream_interval": 16}
    config = make_config(**{**GPU, "rollout__engine_options": options, "rollout__max_kv_age": 2})
    engine = make_engine(config, "rollout-3", Tracer(None, "rollout-3"), tmp_path)
    assert (engine.engine_id, engine.policy_version) == ("rollout-3", None)
    load = engine.load()
    assert (load.capacity, load.num_running, load.generated_tokens) == (config.rollout.max_running_requests, 0, 0)

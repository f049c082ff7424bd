"""TensorBoard and Weights & Biases take a run's figures, offline; one that fails costs itself alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ring_async.records.steps import EvaluationRecord, SourceEvaluation, StepRecord
from ring_async.telemetry.sinks.base import Sink, evaluation_figures, step_figures
from ring_async.telemetry.sinks.feed import MAX_QUEUED, SinkFeed
from ring_async.telemetry.sinks.registry import sink_makers, sink_problems

STEP = StepRecord(
    policy_version=7,
    time=1_700_000_000.0,
    entropy=0.5,
    grad_norm=float("nan"),
    reward_by_source={"sums": 0.25},
    effective_sample_size_low=True,
    more={"pipeline_bubble": 0.1},
)


class Taken:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []
        self.is_closed = False

    def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
        self.logged.append((figures, policy_version))

    def close(self) -> None:
        self.is_closed = True


def test_figures_are_flat_numbers():
    figures = step_figures(STEP)
    assert figures == {
        "entropy": 0.5, "reward_by_source/sums": 0.25, "effective_sample_size_low": 1.0, "pipeline_bubble": 0.1,
    }  # fmt: skip
    evaluation = EvaluationRecord(policy_version=7, pass_at_1=0.5, by_source={"sums": SourceEvaluation(avg_at_k=1.0)})
    assert evaluation_figures(evaluation) == {"evaluation/pass_at_1": 0.5, "evaluation/by_source/sums/avg_at_k": 1.0}


@pytest.mark.parametrize("fails_at", ["open", "log", "close"])
def test_a_sink_that_fails_is_given_up_and_the_others_go_on(fails_at: str):
    class Failing(Taken):
        def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
            if fails_at == "log":
                raise RuntimeError("no network")

        def close(self) -> None:
            if fails_at == "close":
                raise RuntimeError("no network")

    def open_failing() -> Sink:
        if fails_at == "open":
            raise RuntimeError("no network")
        return Failing()

    taken = Taken()
    feed = SinkFeed({"failing": open_failing, "taken": lambda: taken})
    feed.step(STEP)
    feed.step(STEP)
    feed.close()
    assert feed.failures() == ["failing is given up: RuntimeError: no network"]
    assert feed.failures() == []
    assert [version for _, version in taken.logged] == [7, 7]
    assert taken.is_closed


def test_a_sink_that_blocks_does_not_hold_up_the_run():
    may_go_on = threading.Event()

    class Blocking(Taken):
        def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
            may_go_on.wait(30.0)

    feed = SinkFeed({"blocking": Blocking})
    for _ in range(MAX_QUEUED + 10):
        feed.step(STEP)
    assert feed.num_dropped >= 9
    may_go_on.set()
    feed.close()


def test_tensorboard_holds_every_figure(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    makers = sink_makers(tmp_path, "trial", tensorboard=True, wandb_project="", config={})
    feed = SinkFeed(makers)
    feed.step(STEP)
    feed.close()
    assert feed.failures() == []
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == set(step_figures(STEP))
    (point,) = accumulator.Scalars("reward_by_source/sums")
    assert (point.step, point.value, point.wall_time) == (7, 0.25, 1_700_000_000.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_writes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    feed = SinkFeed(sink_makers(tmp_path, "trial", tensorboard=False, wandb_project="rings", config={"seed": 1}))
    feed.step(STEP)
    feed.close()
    assert feed.failures() == []
    (written,) = (tmp_path / "wandb").rglob("*.wandb")
    assert b"reward_by_source/sums" in written.read_bytes()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = sink_problems(tensorboard=False, wandb_project="rings")
    assert "pip install 'ring-async[wandb]'" in problem
    assert list(sink_problems(tensorboard=False, wandb_project="")) == []

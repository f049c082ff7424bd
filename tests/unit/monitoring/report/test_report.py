"""Figures from a run's files, whatever state the files are in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from ring_async.errors import RunError
from ring_async.monitoring.report.curves import panels
from ring_async.monitoring.report.page import render_page
from ring_async.monitoring.report.rows import read_rows, with_evaluations
from ring_async.monitoring.report.summary import print_summary, summary, summary_lines
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config, make_metrics_row


def write_rows(run_dir: Path, *rows: dict, tail: str = "") -> Path:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return run_dir


def test_a_run_in_figures(tmp_path: Path):
    rows = [
        make_metrics_row(
            version, reward_mean=version / 20, loss_tokens=64, staleness_max=version % 4, evicted=version // 7
        )
        for version in range(1, 21)
    ]
    figures = summary(write_rows(tmp_path, *rows))
    assert figures["policy_versions"] == 20
    assert figures["wall_s"] == 40.0
    assert figures["reward_window_versions"] == 2
    assert figures["reward_first"] == pytest.approx((1 + 2) / 40)
    assert figures["reward_last"] == pytest.approx((19 + 20) / 40)
    assert figures["loss_tokens"] == 20 * 64
    assert figures["trained_tokens_per_s"] == pytest.approx(32.0)
    assert (figures["staleness_max"], figures["evicted"], figures["steps_off_budget"]) == (3.0, 2.0, 0)
    assert figures["learner_wait_share"] == pytest.approx(0.3 * 20 / 40)
    assert set(figures["reward_by_source"]) == {"sums", "letters"}
    assert figures["generate_train_overlap"] is None
    json.dumps(figures)


def test_batches_off_the_budget_are_counted_but_for_a_declared_end(tmp_path: Path):
    def off(*loss_tokens: int) -> int:
        rows = [make_metrics_row(number, loss_tokens=count) for number, count in enumerate(loss_tokens, 1)]
        return summary(write_rows(tmp_path, *rows))["steps_off_budget"]

    assert off(64, 64, 64) == 0
    assert off(64, 63, 64) == 1
    assert off(64, 64, 20) == 0
    assert off(64, 64, 65) == 1


def test_partial_files_give_what_they_hold(tmp_path: Path):
    write_rows(tmp_path, make_metrics_row(1), {"policy_version": 2}, tail='[1]\n\n{"policy_version": 3, "rew')
    assert [row["policy_version"] for row in read_rows(tmp_path)] == [1, 2]
    figures = summary(tmp_path)
    assert figures["policy_versions"] == 2
    assert figures["reward_last"] is None
    print_summary(tmp_path, Console(quiet=True))


def test_a_replayed_version_counts_once_and_time_runs_on_over_a_resume(tmp_path: Path):
    rows = [
        make_metrics_row(1, wall_s=10.0),
        make_metrics_row(2, wall_s=20.0, reward_mean=0.1),
        make_metrics_row(2, wall_s=4.0, reward_mean=0.2),
        make_metrics_row(3, wall_s=8.0),
    ]
    read = read_rows(write_rows(tmp_path, *rows))
    assert [(row["policy_version"], row["wall_s"]) for row in read] == [(1, 10.0), (2, 24.0), (3, 28.0)]
    assert read[1]["reward_mean"] == 0.2


def test_no_step_yet_is_said_plainly(tmp_path: Path):
    with pytest.raises(RunError, match="no optimizer step yet"):
        summary(tmp_path)


def test_overlap_comes_from_the_timeline(tmp_path: Path):
    write_rows(tmp_path, make_metrics_row(1))
    with Tracer(tmp_path / "trace" / "rollout-0.jsonl", "rollout-0") as tracer:
        tracer.complete("generate", 0, 10e6)
        tracer.complete("train", 6e6, 11e6)
    assert summary(tmp_path)["generate_train_overlap"] == pytest.approx(0.8)


def test_panels_without_values_are_left_out_and_bounds_are_drawn():
    config = make_config(replay__max_staleness=3).model_dump(mode="json")
    titles = {panel.title: panel for panel in panels([make_metrics_row(1), make_metrics_row(2)], config)}
    assert len(titles) == 9
    assert titles["Staleness"].bound == (3.0, "bound")
    assert titles["Loss tokens"].bound == (64.0, "Φ")
    assert [line.label for line in titles["Reward"].lines] == ["letters", "sums", "all"]
    assert [panel.title for panel in panels([{"policy_version": 1, "entropy": 0.5}], {})] == ["Entropy"]
    synchronous = make_config(mode="sync").model_dump(mode="json")
    assert {panel.title: panel.bound for panel in panels([make_metrics_row(1)], synchronous)}["Staleness"] == (
        0.0,
        "bound",
    )


def test_a_page_of_an_almost_empty_run():
    figures = {"run": "<b>x</b>", "policy_versions": 1, "reward_window_versions": 1, "reward_by_source": {}}
    keys = ("wall_s", "reward_first", "reward_last", "loss_tokens", "trained_tokens_per_s", "generated_tokens_per_s")
    keys += ("staleness_mean", "staleness_max", "evicted", "effective_sample_size_min", "entropy_first", "entropy_last")
    keys += ("learner_wait_share", "generate_train_overlap")
    html = render_page([{"policy_version": 1}], figures | dict.fromkeys(keys) | {"steps_off_budget": 0}, {}, [])
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>x</b>" not in html


def test_evaluations_are_compared_first_to_last(tmp_path: Path):
    write_rows(tmp_path, *(make_metrics_row(number) for number in range(1, 5)))
    lines = [
        {"policy_version": number, "k": 4, "pass_at_1": 0.25 * number, "avg_at_k": 0.1 * number, "by_source": {}}
        for number in (0, 4, 2, 4)
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    figures = summary(tmp_path)
    assert [line["policy_version"] for line in figures["evaluations"]] == [0, 2, 4]
    shown = {what: (much, remark) for what, much, remark in summary_lines(figures)}
    assert shown["pass@1"] == ("0.000 → 1.000", "held-out problems, versions 0 and 4")
    assert shown["avg@4"][0] == "0.000 → 0.400"
    drawn = with_evaluations(read_rows(tmp_path), figures["evaluations"])
    (panel,) = (panel for panel in panels(drawn, {}) if panel.title == "Held-out problems")
    assert [value for value in panel.lines[0].values if value == value] == [0.5, 1.0]

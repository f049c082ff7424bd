"""Two runs side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ring_async.errors import RunError
from ring_async.monitoring.report.comparison import compare, print_comparison, write_comparison
from ring_async.testing.builders import make_config, make_metrics_row


def make_run(runs: Path, name: str, num_versions: int, **settings) -> Path:
    folder = runs / name
    folder.mkdir()
    config = make_config(run__name=name, **settings)
    (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    rows = (json.dumps(make_metrics_row(number)) for number in range(1, num_versions + 1))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_figures_stand_side_by_side_and_only_settings_that_differ(tmp_path: Path):
    first = make_run(tmp_path, "slow", 10, learner__learning_rate=1e-6)
    second = make_run(tmp_path, "fast", 20, learner__learning_rate=1e-4)
    compared = compare(first, second)
    assert compared.names == ("slow", "fast")
    assert ("policy versions", "10", "20") in compared.lines
    assert compared.settings == [("learner.learning_rate", 1e-6, 1e-4)]
    assert compared.plain()["figures"]["policy versions"] == ["10", "20"]


def test_the_table_names_both_runs(tmp_path: Path):
    out = Console(file=io.StringIO(), width=120, color_system=None)
    print_comparison(compare(make_run(tmp_path, "a", 3), make_run(tmp_path, "b", 4, seed=7)), out)
    text = out.file.getvalue()
    assert "policy versions" in text
    assert "seed" in text.partition("differ")[2]


def test_a_picture_is_drawn_of_runs_of_different_lengths(tmp_path: Path):
    path = write_comparison(make_run(tmp_path, "a", 3), make_run(tmp_path, "b", 9))
    assert path == tmp_path / "a" / "comparison_b.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_step_is_refused_by_name(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty"):
        compare(make_run(tmp_path, "a", 3), tmp_path / "empty")

"""The report's two files, drawn for real."""

from __future__ import annotations

import json
from pathlib import Path

from ring_async.monitoring.report.curves import draw_png
from ring_async.monitoring.report.report import write_report
from ring_async.testing.builders import make_config, make_metrics_row


def test_the_report_is_written_whole_and_stands_alone(tmp_path: Path):
    rows = [make_metrics_row(version) for version in range(1, 13)]
    rows[4].pop("entropy")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "events.jsonl").write_text('{"time": 1.7e9, "kind": "swap", "author": "<script>x</script>"}\n{"ti')
    (tmp_path / "config.json").write_text(json.dumps(make_config().model_dump(mode="json")))
    picture, page = write_report(tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    html = page.read_text()
    assert html.count("data:image/svg+xml;base64,") == 9
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "&lt;script&gt;x&lt;/script&gt;" in html


def test_one_step_is_enough_for_a_picture(tmp_path: Path):
    draw_png([{"policy_version": 1, "entropy": 0.5}], tmp_path / "one.png", title="one", config={})
    assert (tmp_path / "one.png").stat().st_size > 1000

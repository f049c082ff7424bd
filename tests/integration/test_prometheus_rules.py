"""The shipped rules and the exported files: checked by promtool, by Grafana's own types, and against the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from ring_async.monitoring.export import differing, export
from ring_async.monitoring.grafana.boards import BOARDS
from ring_async.monitoring.prometheus import rules_text
from ring_async.telemetry import metrics

ROOT = Path(__file__).parents[2]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs a Prometheus: apt-get install prometheus"
)
NAMES = {
    f"{declared.name}{part}"
    for declared in metrics.declarations()
    for part in (("_bucket", "_sum", "_count") if declared.kind == "histogram" else ("",))
}


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_alert_fires_where_it_should_and_only_there(tmp_path: Path):
    rules, cases = tmp_path / "rules.yaml", tmp_path / "rules_test.yaml"
    rules.write_text(rules_text())
    cases.write_text((ROOT / "tests" / "support" / "rules_test.yaml").read_text())
    promtool("check", "rules", str(rules))
    promtool("test", "rules", str(cases))
    alerts = set(re.findall(r"alert: (\w+)", rules.read_text()))
    tested = {
        one["alertname"] for test in yaml.safe_load(cases.read_text())["tests"] for one in test["alert_rule_test"]
    }
    assert alerts == tested


def test_rules_and_boards_use_declared_metrics_alone():
    texts = [rules_text(), *(query.expression for board in BOARDS for panel in board.panels for query in panel.queries)]
    used = {name for text in texts for name in re.findall(r"\bring_\w+", re.sub(r":ring_\w+:", "", text))}
    assert used - NAMES == set()


def test_the_exported_files_are_what_this_release_writes(tmp_path: Path):
    assert differing(ROOT / "monitoring") == []
    export(tmp_path)
    assert differing(tmp_path) == []
    (tmp_path / "rules.yaml").write_text("edited")
    (tmp_path / "dashboards" / "ring-async-data.json").unlink()
    assert differing(tmp_path) == ["rules.yaml", "dashboards/ring-async-data.json"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_board_is_one_screen_of_grafanas_own_types_with_its_variables(board):
    plain = json.loads((ROOT / "monitoring" / "dashboards" / f"{board.uid}.json").read_text())
    typed = Dashboard.from_json(plain)
    assert [variable.name for variable in typed.templating.list_val] == ["datasource", "run"]
    assert len(typed.panels) == 16
    assert max(panel.grid_pos.y + panel.grid_pos.h for panel in typed.panels) == 28
    assert all(panel.description for panel in typed.panels)
    assert all('run="$run"' in query.expression for panel in board.panels for query in panel.queries)
    assert {panel.datasource.uid for panel in typed.panels} == {"${datasource}"}


def test_the_compose_file_and_provisioning_name_what_is_there():
    compose = yaml.safe_load((ROOT / "monitoring" / "compose.yaml").read_text())
    mounts = [volume.split(":")[0] for volume in compose["services"]["grafana"]["volumes"]]
    assert all((ROOT / "monitoring" / mount).is_dir() for mount in mounts)
    source = yaml.safe_load((ROOT / "monitoring" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"].endswith(compose["services"]["prometheus"]["command"][2][-5:])

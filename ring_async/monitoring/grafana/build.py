"""Boards as Grafana's classic JSON, made with grafana-foundation-sdk.

Owns: the look of a board: variables, annotations, grid, colours. Does not own its panels (`boards`).
Invariants: the same board gives the same bytes; ids are those of positions, so a diff shows what changed.
"""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as board_models

from ring_async.monitoring.grafana.panels import Board, Panel
from ring_async.telemetry import metrics

TAG = "ring-async"
"""On every board, and on every annotation that the controller writes."""
WIDTH, HEIGHT = 6, 7
"""Of a panel: four in a row of Grafana's 24 columns."""

_DATASOURCE = board_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_GRAFANA = board_models.DataSourceRef(type_val="grafana", uid="-- Grafana --")


def board_json(board: Board) -> str:
    """The board as a file of Grafana's: what is exported, provisioned and pushed."""
    return json.dumps(build(board), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def build(board: Board) -> dict[str, Any]:
    """The board as plain data."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .editable()
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(board_models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("run")
            .label("Run")
            .datasource(_DATASOURCE)
            .query(f"label_values({_run_series()}, run)")
            .refresh(board_models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(board_models.VariableSort.ALPHABETICAL_DESC)
        )
    )
    for annotation in _annotations():
        built = built.annotation(annotation)
    for number, panel in enumerate(board.panels):
        x, y = WIDTH * (number % (24 // WIDTH)), HEIGHT * (number // (24 // WIDTH))
        grid = board_models.GridPos(h=HEIGHT, w=WIDTH, x=x, y=y)
        built = built.with_panel(_panel(panel).id(number + 1).grid_pos(grid))
    plain: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(built.build()))
    return plain


def _run_series() -> str:
    (family,) = metrics.controller_members.describe()
    return str(family.name)


def _annotations() -> list[dashboard.AnnotationQuery]:
    """Marks on every panel: what the controller wrote, and the alerts of Prometheus that fire."""
    target = dashboard.AnnotationTarget().limit(200).match_any(False).tags([TAG, "$run"]).type("tags")
    changes = (
        dashboard.AnnotationQuery().name("Changes").datasource(_GRAFANA).enable(True).icon_color("blue").target(target)
    )
    alerts = (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(_DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertstate="firing", run="$run"}')
    )
    return [changes, alerts]


def _panel(panel: Panel) -> timeseries.Panel:
    description = f"{panel.description} (Only in: {panel.only}.)" if panel.only else panel.description
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(description)
        .datasource(_DATASOURCE)
        .unit(panel.unit)
        .line_width(1)
        .fill_opacity(40 if panel.is_stacked else 0)
        .show_points(models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(models.LegendDisplayMode.LIST)
            .placement(models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING))
    )
    if panel.is_stacked:
        built = built.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        target = target.ref_id(chr(ord("A") + number))
        built = built.with_target(target)
    return built

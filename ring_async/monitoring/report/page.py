"""The report as one HTML file that needs nothing else: figures, curves, what changed, and the configuration.

Owns: the markup. Everything from the run's files is escaped and `printable`: source names and events are
data, never markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from ring_async.monitoring.report.curves import draw_svgs
from ring_async.monitoring.report.rows import Row
from ring_async.monitoring.report.summary import summary_lines
from ring_async.printable import printable

_STYLE = """
:root { --ink: #1f2937; --faint: #6b7280; --line: #e5e7eb; --paper: #ffffff; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 36px 0 12px; }
p { color: var(--faint); margin: 0 0 20px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px; }
.card img { width: 100%; display: block; }
table { border-collapse: collapse; width: 100%; background: var(--paper); border: 1px solid var(--line); }
td, th { padding: 6px 12px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.faint, th { color: var(--faint); font-weight: normal; } .wide { overflow-x: auto; }
pre { background: var(--paper); border: 1px solid var(--line); padding: 14px; overflow-x: auto; font-size: 13px; }
"""


def render_page(
    rows: Sequence[Row], figures: dict[str, Any], config: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> str:
    """The whole page."""
    name = escape(str(figures["run"]))
    page = "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}: ring-async report</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{name}</h1><p>{len(rows)} policy versions, the last is {rows[-1]['policy_version']}.</p>",
            _summary_table(figures),
            "<h2>Curves</h2><p>Faint: every batch. Bold: moving average.</p>",
            f'<div class="grid">{"".join(_picture(title, svg) for title, svg in draw_svgs(rows, config))}</div>',
            _events_table(events),
            _configuration(config),
            "</main></body></html>\n",
        )
    )
    return printable(page)


def _summary_table(figures: dict[str, Any]) -> str:
    lines = "".join(
        f'<tr><td>{escape(what)}</td><td class="number">{escape(much)}</td><td class="faint">{escape(remark)}</td></tr>'
        for what, much, remark in summary_lines(figures)
    )
    return f'<div class="wide"><table>{lines}</table></div>'


def _picture(title: str, svg: str) -> str:
    """Embed an SVG as an image, because SVGs placed directly into one page share their ids."""
    encoded = base64.b64encode(svg.encode()).decode()
    return f'<div class="card"><img alt="{escape(title)}" src="data:image/svg+xml;base64,{encoded}"></div>'


def _events_table(events: Sequence[Mapping[str, Any]]) -> str:
    if not events:
        return ""
    lines = "".join(
        f"<tr><td class='faint'>{_time(event.get('time'))}</td><td>{escape(str(event.get('kind', '')))}</td>"
        f"<td>{escape(str(event.get('author', '')))}</td><td>{escape(_details(event))}</td></tr>"
        for event in events
    )
    head = "<tr><th>when (UTC)</th><th>what</th><th>by</th><th>details</th></tr>"
    return f'<h2>What happened</h2><div class="wide"><table>{head}{lines}</table></div>'


def _configuration(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return f"<h2>Configuration</h2><details><summary>config.json</summary><pre>{text}</pre></details>"


def _details(event: Mapping[str, Any]) -> str:
    rest = ((key, value) for key, value in event.items() if key not in {"time", "kind", "author"})
    return ", ".join(f"{key}: {value}" for key, value in rest)


def _time(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")

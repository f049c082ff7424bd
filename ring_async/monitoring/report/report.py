"""The report of a run: read from its files, summed up in figures, and written as curves (PNG) and a page (HTML).

Owns: reading `metrics.jsonl` and `events.jsonl`, and the summary. Does not own how curves (`curves`) and the page
(`page`) look.
Invariants: a run that is still going, was killed in the middle of a line, or lacks keys still gets its report: what is
missing is left out, never guessed. Of a policy version trained twice (a learner restarted from a checkpoint) the last
line counts: it is the lineage that survived.
"""

from __future__ import annotations

from pathlib import Path

from ring_async.monitoring.report.rows import (
    changes_of,
    read_config,
    read_lines,
    rows_or_refuse,
    with_evaluations,
)
from ring_async.monitoring.report.summary import summary
from ring_async.storage.run_dir import RunDir


def write_report(run_dir: Path) -> list[Path]:
    """Write `curves.png` and `report.html` into the run's folder; both stand alone. Returns their paths.

    Raises:
        RunError: the run has no optimizer step yet.
    """
    from ring_async.monitoring.report.curves import draw_png
    from ring_async.monitoring.report.page import render_page

    rows = rows_or_refuse(run_dir)
    figures, config = summary(run_dir), read_config(run_dir)
    files = RunDir(run_dir)
    picture, page = files.curves, files.report
    drawn = with_evaluations(rows, figures["evaluations"])
    events = read_lines(files.events)
    draw_png(drawn, picture, title=figures["run"], config=config, changes=changes_of(rows, events))
    page.write_text(render_page(drawn, figures, config, events), encoding="utf-8")
    return [picture, page]

"""`ring-async demo`: train the shipped tiny model, and show what it learned.

Owns: what a newcomer sees, and what to try next.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.check import check_parts
from ring_async.cli.evaluate import evaluate_model, print_evaluations
from ring_async.cli.options import Runs, out, short
from ring_async.cli.up import bring_up, free_name
from ring_async.config.load import load_config
from ring_async.storage.run_dir import RunDir

DEMO_WALL_S = 200
"""Seconds of training after which the demo ends on a slow machine, with the versions it has by then."""


def demo(
    runs: Runs = Path("runs"),
    config: Annotated[Path, typer.Option(help="What to run.")] = Path("configs/local.yaml"),
) -> None:
    """Train the shipped tiny model for a few minutes on this machine, and show what it learned.

    [bold]Examples[/bold]

      ring-async demo
      ring-async demo --runs /tmp/runs
    """
    from ring_async.monitoring.report.report import write_report
    from ring_async.monitoring.report.summary import print_summary

    name = free_name(runs, "demo")
    resolved = load_config(config, [f"run.name={name}", f"run.dir={runs}", f"stop.wall_s={DEMO_WALL_S}"])
    check_parts(resolved)
    run_dir = RunDir((runs / name).absolute())
    code = bring_up(resolved, run_dir, resume=False)
    if code:
        raise typer.Exit(code)
    outcome = json.loads(run_dir.outcome.read_text())
    last = outcome["policy_version"]
    print_summary(run_dir.path, out)
    results = {
        "start": evaluate_model(resolved.model.path, resolved),
        f"version {last}": evaluate_model(outcome["checkpoint"], resolved),
    }
    print_evaluations(results)
    pictures = write_report(run_dir.path)
    out.print("\nCurves: " + "  ".join(short(path) for path in pictures), soft_wrap=True)
    ring = short(Path(sys.executable).with_name("ring-async"))
    out.print(
        "\nWhat to try next\n"
        f"  {ring} report {name}          the curves and a summary again\n"
        f"  {ring} audit {name}           prove that no trajectory went missing\n"
        f"  {ring} up configs/local.yaml run.name=mine correction.rule=cispo\n"
        f"  {ring} status --watch        from another terminal, while it runs\n"
        "  make demo-seeds                              the learning claim, with seeds and controls",
        highlight=False,
        soft_wrap=True,
    )

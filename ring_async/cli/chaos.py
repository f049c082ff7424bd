"""`ring-async chaos`: kill and freeze the processes of a copy of a run, and show what it took."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.check import check_parts
from ring_async.cli.options import AsJson, ConfigFile, Overrides, Runs, err, out, short
from ring_async.cli.up import free_name
from ring_async.config.load import load_config
from ring_async.storage.run_dir import RunDir


def chaos(
    config: ConfigFile,
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long processes are struck.")] = 10.0,
    strikes: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", show_default=False)] = None,
    *,
    seed: Annotated[int | None, typer.Option(help="Of the strikes; default: drawn, and printed.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Strike a copy of a run with faults, and print what was lost and how long each recovery took.

    The configuration is run under a name of its own; runs that exist are not touched. Every process of it is killed
    with signal 9 or frozen in turn: at work, in a swap, while a checkpoint is written, while a successor starts, two at
    once. Then the run is ended and audited. Exit code 1 if anything was lost, doubled, left behind or did not recover.

    [bold]Examples[/bold]

      ring-async chaos configs/local.yaml --minutes 10
      ring-async chaos configs/local.yaml rollout.num=2 --strikes 20 --seed 7 --json | jq .rows
    """
    from ring_async.chaos.run import Orders, strike_until_over
    from ring_async.chaos.table import Strike
    from ring_async.chaos.target import Target

    resolved = load_config(config, overrides or [])
    check_parts(resolved)
    number = random.SystemRandom().randrange(10**6) if seed is None else seed
    name = free_name(runs.absolute(), f"chaos-{resolved.run.name}-{number}")
    run_dir = RunDir((runs / name).absolute())
    err.print(f"striking {name} for {minutes:g} min, seed {number}; logs: {short(run_dir.logs)}", soft_wrap=True)

    def say(strike: Strike) -> None:
        took = "did not recover" if strike.recovered_s is None else f"recovered after {strike.recovered_s:.1f} s"
        also = f"; also restarted: {', '.join(strike.bystanders)}" if strike.bystanders else ""
        err.print(f"{strike.fault} {strike.victims}, {strike.phase}: {took}{also}", soft_wrap=True)

    uses = {name: section.use for name, section in resolved.verifiers.items()}
    orders = Orders(resolved.roster, uses, number, minutes, strikes)
    report = strike_until_over(Target(config, overrides or [], run_dir), orders, say)
    (run_dir.path / "chaos.json").write_text(json.dumps(report.plain(), indent=1))
    if as_json:
        out.print_plain(report.plain())
    else:
        out.print(report.markdown(), soft_wrap=True, highlight=False)
    raise typer.Exit(0 if report.is_good else 1)

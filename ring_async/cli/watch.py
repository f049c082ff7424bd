"""Commands that show a run: `status` and `logs` while it goes on, `audit` and `report` also afterwards.

Owns: the commands' options and output. Does not own what they show (`monitoring`, `storage.audit`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.options import AsJson, Run, RunArgument, Runs, complete_actor, out, short
from ring_async.control.client import ControlClient
from ring_async.errors import RunError
from ring_async.storage.run_dir import find_run


def status(
    run: Run = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Follow until Ctrl-C.")] = False,
) -> None:
    """Show actors, what each waits for, throughput, buffer, and the last events.

    [bold]Examples[/bold]

      ring-async status
      ring-async status --watch
      ring-async status --json | jq .policy_version
    """
    from ring_async.monitoring.terminal import show_status, watch_status
    from ring_async.records.status import read_status

    client = ControlClient(find_run(runs, run))
    if watch:
        watch_status(lambda: read_status(client.get("/v1/status")), out)
    elif as_json:
        out.print_plain(client.get("/v1/status"))
    else:
        show_status(read_status(client.get("/v1/status")), out)


def logs(
    actor: Annotated[str, typer.Argument(help="e.g. rollout-0; default: all.", autocompletion=complete_actor)] = "",
    run: Run = None,
    runs: Runs = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
) -> None:
    """Print actors' logs.

    [bold]Examples[/bold]

      ring-async logs
      ring-async logs learner-0 --follow
      ring-async logs rollout --run mine
    """
    folder = find_run(runs, run).logs
    files = sorted(folder.glob(f"{actor}*.log" if actor else "*.log"))
    if not files:
        have = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none"
        raise RunError(
            f"{folder}: no log of {actor!r}; there are: {have}. An actor on another host has its log "
            "there, in the same folder"
        )
    command = ["tail", "-n", "200", *(["-F"] if follow else []), *map(str, files)]
    raise typer.Exit(_print_lines_of(command))


def _print_lines_of(command: list[str]) -> int:
    """Run a command and print its lines as they come; returns its exit code. Ctrl-C ends it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                out.print(line, end="", soft_wrap=True, highlight=False)
        except KeyboardInterrupt:
            process.terminate()
    return process.returncode


def audit(
    run: RunArgument = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Prove from disk that every trajectory is accounted for. If not, print the offending ids; exit code 1.

    [bold]Examples[/bold]

      ring-async audit
      ring-async audit mine --json | jq .violations
    """
    from ring_async.storage.audit import audit as audit_run

    report = audit_run(find_run(runs, run).path)
    if as_json:
        out.print_plain(report.to_plain())
    else:
        out.print(report.to_text(), soft_wrap=True)
    raise typer.Exit(0 if report.is_clean else 1)


def report(
    run: RunArgument = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Draw the curves of a run (PNG and HTML) and print a summary.

    [bold]Examples[/bold]

      ring-async report
      ring-async report mine --json | jq .reward_last
    """
    from ring_async.monitoring.report.report import write_report
    from ring_async.monitoring.report.summary import print_summary, summary

    run_dir = find_run(runs, run)
    if as_json:
        out.print_plain(summary(run_dir.path))
        return
    print_summary(run_dir.path, out)
    for path in write_report(run_dir.path):
        out.print(f"wrote {short(path)}", soft_wrap=True)

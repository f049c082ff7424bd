"""`ring-async dashboard`: Grafana's boards, pushed to a Grafana or written as files.

Owns: the commands' options and output. Does not own the boards, nor the pushing (`monitoring.grafana`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.options import AsJson, out, say, short
from ring_async.config.monitoring import TOKEN_VARIABLE
from ring_async.errors import ConfigError, RunError

app = typer.Typer(no_args_is_help=True, help="Grafana's boards: push them to a Grafana, or write them as files.")

Url = Annotated[str, typer.Argument(help="Of the Grafana, e.g. https://grafana.example.com")]


@app.command("push")
def push_boards(
    url: Url,
    prometheus_url: Annotated[
        str, typer.Option(help="Prometheus as Grafana reaches it; without it, no data source is made.")
    ] = "",
    folder: Annotated[str, typer.Option(help="Grafana's folder for the boards.")] = "ring-async",
    force: Annotated[bool, typer.Option(help="Replace boards that were edited in Grafana, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make data source, folder and boards in a Grafana. Again changes nothing.

    The token (a service account's, role Editor; Admin for the data source) comes from $GRAFANA_TOKEN.

    [bold]Examples[/bold]

      ring-async dashboard push https://grafana.example.com --prometheus-url http://prometheus:9090
      ring-async dashboard push http://localhost:3000 --force
    """
    from ring_async.monitoring.grafana.boards import BOARDS
    from ring_async.monitoring.grafana.client import Grafana
    from ring_async.monitoring.grafana.push import Outcome, push

    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise ConfigError(f"${TOKEN_VARIABLE} is not set: make a service account's token in Grafana, and export it")
    pushed = push(Grafana(url, token), BOARDS, folder=folder, prometheus_url=prometheus_url, force=force)
    lines = [f"{one.title}: {one.outcome}  {one.url}" for one in pushed]
    kept = [one for one in pushed if one.outcome == Outcome.KEPT]
    if kept:
        lines.append("replace what was edited with: --force")
    plain = {"boards": [{"title": one.title, "url": one.url, "outcome": one.outcome} for one in pushed]}
    say("\n".join(lines), plain, as_json)
    raise typer.Exit(1 if kept else 0)


@app.command("export")
def export_boards(
    folder: Annotated[Path, typer.Argument(help="Where to.")] = Path("monitoring"),
    check: Annotated[bool, typer.Option(help="Write nothing; fail if a file differs.")] = False,
) -> None:
    """Write boards and rules as files, for Grafana's and Prometheus' own provisioning.

    [bold]Examples[/bold]

      ring-async dashboard export monitoring
      ring-async dashboard export monitoring --check
    """
    from ring_async.monitoring.export import differing, export

    if check:
        if names := differing(folder):
            raise RunError(f"{folder}: {', '.join(names)} differ from this release; run: ring-async dashboard export")
        return
    for path in export(folder):
        out.print(f"wrote {short(path)}", soft_wrap=True)

"""`ring-async page` and `ring-async explain`: the live page's address, and what it says on top.

Owns: the commands' options and output. Does not own the page (`control.page`), nor the sentences (`core.explain`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text

from ring_async.cli.options import AsJson, Run, Runs, out, say
from ring_async.control.client import ControlClient
from ring_async.storage.run_dir import RunDir, find_run

_STYLES = {"fault": "red", "symptom": "yellow", "tip": "cyan"}


def page(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Print a link to the run's live page. It lets one browser in, once, within an hour.

    [bold]Examples[/bold]

      ring-async page
      ring-async page --run mine
    """
    link = page_link(find_run(runs, run))
    say(link, {"link": link}, as_json)


def explain(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Say what is the matter with a run, and what to do; nothing where nothing is known.

    [bold]Examples[/bold]

      ring-async explain
      ring-async explain --json | jq -r '.[].what'
    """
    found = ControlClient(find_run(runs, run)).get("/v1/explain")
    if as_json:
        out.print_plain(found)
        return
    for finding in found:
        out.print(finding_line(finding), soft_wrap=True)
    if not found:
        out.print("nothing stands out; see also: ring-async status")


def finding_line(finding: dict[str, Any]) -> Text:
    """One finding in a line."""
    gravity = finding["gravity"]
    return Text.assemble((f"{gravity}: ", _STYLES.get(gravity, "")), finding["what"], " ", (finding["remedy"], "dim"))


def page_link(run_dir: RunDir) -> str:
    """A link that lets one browser in, once.

    Raises:
        RunError: the run is not up.
    """
    client = ControlClient(run_dir)
    path = client.post("/v1/page/link")["path"]
    return f"{run_dir.read_endpoints()['api']}{path}"


def page_notice(run_dir: RunDir) -> str:
    """Where the live page is. On a terminal the link itself; elsewhere the command that prints it, since the link lets
    anybody in who reads the log first.

    Raises:
        RunError: the run is not up.
    """
    if out.is_terminal:
        return f"live page: {page_link(run_dir)}"
    return f"live page: {run_dir.read_endpoints()['api']}/ (a link to it: ring-async page --run {run_dir.path.name})"

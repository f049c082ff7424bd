"""Arguments, options and output that commands share.

Owns: the names, help and completion of shared options, and how output is printed. Does not own any command.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ring_async.cli.console import SafeConsole
from ring_async.printable import printable_line
from ring_async.storage.run_dir import RunDir

out = SafeConsole()
err = SafeConsole(stderr=True)


def _runs_folder(context: typer.Context) -> Path:
    return Path(context.params.get("runs") or os.environ.get("RING_ASYNC_RUNS") or "runs")


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Names of runs, for completion in the shell."""
    found = (folder.name for folder in _runs_folder(context).glob("*") if RunDir(folder).config.is_file())
    return sorted(name for name in found if name.startswith(incomplete) and printable_line(name) == name)


def complete_actor(context: typer.Context, incomplete: str) -> list[str]:
    """Names of actors that have a log in the chosen or newest run, for completion in the shell."""
    run_dir = RunDir(_runs_folder(context) / (context.params.get("run") or "latest"))
    found = (path.stem for path in run_dir.logs.glob(f"{incomplete}*.log"))
    return sorted(name for name in found if printable_line(name) == name)


ConfigFile = Annotated[Path, typer.Argument(help="A YAML file, e.g. configs/local.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, e.g. stop.policy_versions=50", show_default=False)
]
Run = Annotated[
    str | None, typer.Option("--run", help="A run's name or folder; default: the newest.", autocompletion=complete_run)
]
RunArgument = Annotated[
    str | None, typer.Argument(help="A run's name or folder; default: the newest.", autocompletion=complete_run)
]
Runs = Annotated[Path, typer.Option("--runs", help="Where runs lie.", envvar="RING_ASYNC_RUNS")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def short(path: Path) -> str:
    """A path relative to the working directory."""
    return os.path.relpath(path)


def say(words: str, plain: dict[str, Any], as_json: bool) -> None:
    """Print a text for people, or plain data as JSON for scripts."""
    if as_json:
        out.print_plain(plain)
    else:
        out.print(words, soft_wrap=True, highlight=False)

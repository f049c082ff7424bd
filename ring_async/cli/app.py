"""The command line: the commands in the order of the help, and the exit code of each kind of error.

Owns: the commands' names, their order, exit codes. Does not own the commands: each is in a file of this folder.
Exit codes: 0 done, 1 failed, 2 bad configuration or usage, 3 an actor or the run failed, 4 the model diverged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer
from rich.text import Text

from ring_async.cli import changes, dashboard, data, page, steer, watch
from ring_async.cli.chaos import chaos
from ring_async.cli.check import check
from ring_async.cli.demo import demo
from ring_async.cli.doctor import doctor
from ring_async.cli.evaluate import evaluate
from ring_async.cli.export import export
from ring_async.cli.init import init
from ring_async.cli.one_screen import one_screen
from ring_async.cli.options import err
from ring_async.cli.samples import samples
from ring_async.cli.up import up
from ring_async.errors import ConfigError, RingAsyncError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Asynchronous reinforcement learning of language models: a fleet of long-lived actors, from one command.",
)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "up": up,
    "check": check,
    "status": watch.status,
    "page": page.page,
    "explain": page.explain,
    "pause": steer.pause,
    "resume": steer.resume,
    "checkpoint": steer.checkpoint,
    "down": steer.down,
    "audit": watch.audit,
    "chaos": chaos,
    "report": watch.report,
    "eval": evaluate,
    "logs": watch.logs,
    "demo": demo,
    "samples": samples,
    "export": export,
    "init": init,
    "doctor": doctor,
    "mixture": changes.mixture,
    "set": changes.set_knobs,
    "scale": changes.scale,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
GROUPS = {
    "data": data.app,
    "dashboard": dashboard.app,
    "swap": changes.swap_app,
    "rollback": changes.rollback_app,
}
for name, commands in GROUPS.items():
    app.add_typer(commands, name=name)


def main(words: list[str] | None = None) -> Any:
    """Entry point: an error that people can fix becomes one message and an exit code."""
    try:
        return app(args=words)
    except RingAsyncError as error:
        message = one_screen(str(error)) if isinstance(error, ConfigError) else str(error)
        err.print(Text.assemble(("error: ", "red"), message), soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

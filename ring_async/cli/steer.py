"""Commands to a run as a whole: `pause`, `resume`, `checkpoint`, `down`.

Owns: the commands' options and output. Does not own their effects (the run's control API), nor changes of verifiers,
mixture and settings (`changes`).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.options import AsJson, Run, Runs, err, say
from ring_async.control.client import ControlClient
from ring_async.core.fleet.states import RunState
from ring_async.errors import RunError
from ring_async.storage.run_dir import find_run


def pause(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Stop handing out work and training; what is under way finishes.

    [bold]Examples[/bold]

      ring-async pause
      ring-async pause --run mine && ring-async resume --run mine
    """
    ControlClient(find_run(runs, run)).post("/v1/pause")
    say("paused; go on with: ring-async resume", {"state": RunState.PAUSED}, as_json)


def resume(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Go on after `pause`.

    [bold]Examples[/bold]

      ring-async resume
      ring-async resume --run mine
    """
    ControlClient(find_run(runs, run)).post("/v1/resume")
    say("running", {"state": RunState.RUNNING}, as_json)


def checkpoint(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Write a checkpoint between two steps, and print its path.

    [bold]Examples[/bold]

      ring-async checkpoint
      ring-async export $(ring-async checkpoint) models/now
    """
    written = ControlClient(find_run(runs, run), timeout_s=300.0).post("/v1/checkpoint")
    say(written["path"], written, as_json)


def down(
    run: Run = None,
    runs: Runs = Path("runs"),
    deadline_s: Annotated[float, typer.Option(help="Seconds to finish; what is left then is killed.")] = 20.0,
    as_json: AsJson = False,
) -> None:
    """End a run with a checkpoint.

    [bold]Examples[/bold]

      ring-async down
      ring-async down --run mine --deadline-s 120
    """
    run_dir = find_run(runs, run)
    ControlClient(run_dir).post("/v1/down", {"deadline_s": deadline_s})
    end_s = time.monotonic() + deadline_s + 20.0
    with err.status("waiting for the fleet to leave"):
        while run_dir.endpoints.exists():
            if time.monotonic() > end_s:
                raise RunError(f"{run_dir.path}: still up {deadline_s + 20:.0f} s after `down`; see logs/")
            time.sleep(0.1)
    outcome = json.loads(run_dir.outcome.read_text())
    killed = f"; killed: {', '.join(outcome['killed'])}" if outcome["killed"] else ""
    say(f"{run_dir.path.name} is down at version {outcome['policy_version']}{killed}", outcome, as_json)

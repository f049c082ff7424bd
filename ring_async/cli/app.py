"""The command line: what people type.

Owns: words, help, exit codes, and what is printed. Does not own what commands do: `launch` brings runs up, the control
API of a run does the rest.
Exit codes: 0 done, 1 failed, 2 bad configuration or usage, 3 an actor or the run failed, 4 the model diverged.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ring_async.cli import changes, data
from ring_async.cli.check import check_parts
from ring_async.cli.doctor import doctor
from ring_async.cli.export import export
from ring_async.cli.init import init
from ring_async.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    Run,
    RunArgument,
    Runs,
    complete_actor,
    err,
    out,
    say,
    short,
)
from ring_async.cli.samples import samples
from ring_async.config.load import differing_keys, load_config
from ring_async.config.schema import Config
from ring_async.control.client import ControlClient
from ring_async.core.states import RunState
from ring_async.errors import ConfigError, RingAsyncError, RunError
from ring_async.storage.run_dir import RunDir, find_run
from ring_async.verifiers.kept_files import keep_configured

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Asynchronous reinforcement learning of language models: a fleet of long-lived actors, from one command.",
)
DEMO_WALL_S = 200
"""Seconds of training after which the demo ends on a slow machine, with the versions it has by then."""


@app.command()
def up(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run of this name, from its newest checkpoint.")] = False,
    detach: Annotated[
        bool, typer.Option(help="Return once the fleet is up; it goes on without this terminal.")
    ] = False,
) -> None:
    """Bring a fleet up and train.

    [bold]Examples[/bold]

      ring-async up configs/local.yaml
      ring-async up configs/local.yaml run.name=trial stop.policy_versions=50
      ring-async up configs/local.yaml --resume
      ring-async up configs/local.yaml --detach && ring-async status

    Ctrl-C once ends the run with a checkpoint; twice ends it at once.
    """
    resolved = load_config(config, overrides or [])
    run_dir = RunDir((Path(resolved.run.dir) / resolved.run.name).absolute())
    _prepare_to_start(resolved, run_dir, resume=resume)
    if detach:
        _up_detached(config, overrides or [], run_dir, resume=resume)
        return
    raise typer.Exit(_up(resolved, run_dir, resume=resume))


@app.command()
def check(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and show it resolved, without starting anything.

    [bold]Examples[/bold]

      ring-async check configs/local.yaml
      ring-async check configs/local.yaml rollout.num=2 --json | jq .rollout
    """
    resolved = load_config(config, overrides or [])
    check_parts(resolved)
    if as_json:
        out.print_json(resolved.model_dump_json())
    else:
        out.print(
            f"{config}: good. Φ = {resolved.global_token_budget:,} loss tokens, max_staleness "
            f"{resolved.max_staleness}, {resolved.rollout.num} rollout(s), "
            f"sources {', '.join(resolved.mixture)}"
        )


@app.command()
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

    client = ControlClient(find_run(runs, run))
    if watch:
        watch_status(lambda: client.get("/v1/status"), out)
    elif as_json:
        out.print_json(json.dumps(client.get("/v1/status")))
    else:
        show_status(client.get("/v1/status"), out)


@app.command()
def pause(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Stop handing out work and training; what is under way finishes.

    [bold]Examples[/bold]

      ring-async pause
      ring-async pause --run mine && ring-async resume --run mine
    """
    ControlClient(find_run(runs, run)).post("/v1/pause")
    say("paused; go on with: ring-async resume", {"state": RunState.PAUSED}, as_json)


@app.command()
def resume(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Go on after `pause`.

    [bold]Examples[/bold]

      ring-async resume
      ring-async resume --run mine
    """
    ControlClient(find_run(runs, run)).post("/v1/resume")
    say("running", {"state": RunState.RUNNING}, as_json)


@app.command()
def checkpoint(run: Run = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Write a checkpoint between two steps, and print its path.

    [bold]Examples[/bold]

      ring-async checkpoint
      ring-async export $(ring-async checkpoint) models/now
    """
    written = ControlClient(find_run(runs, run), timeout_s=300.0).post("/v1/checkpoint")
    say(written["path"], written, as_json)


@app.command()
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


@app.command()
def audit(
    run: RunArgument = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Prove from disk that no trajectory is unaccounted for. Exit code 1 and the offending ids if one is.

    [bold]Examples[/bold]

      ring-async audit
      ring-async audit mine --json | jq .violations
    """
    from ring_async.storage.audit import audit as audit_run

    report = audit_run(find_run(runs, run).path)
    if as_json:
        out.print_json(json.dumps(report.to_plain()))
    else:
        out.print(report.to_text(), soft_wrap=True)
    raise typer.Exit(0 if report.is_clean else 1)


@app.command()
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
        out.print_json(json.dumps(summary(run_dir.path)))
        return
    print_summary(run_dir.path, out)
    for path in write_report(run_dir.path):
        out.print(f"wrote {short(path)}", soft_wrap=True)


@app.command("eval")
def evaluate(
    checkpoint_path: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, HF folder, or builtin:tiny.")
    ],
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on held-out problems, greedy and at T = 1.

    [bold]Examples[/bold]

      ring-async eval builtin:tiny configs/local.yaml
      ring-async eval runs/latest/checkpoints/100 configs/local.yaml eval.num_problems=1000
    """
    resolved = load_config(config, overrides or [])
    rows = _evaluate(checkpoint_path, resolved)
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        _print_evaluations({checkpoint_path: rows})


@app.command()
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
    raise typer.Exit(subprocess.call(command))


@app.command()
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

    name = _free_name(runs, "demo")
    resolved = load_config(config, [f"run.name={name}", f"run.dir={runs}", f"stop.wall_s={DEMO_WALL_S}"])
    run_dir = RunDir((runs / name).absolute())
    code = _up(resolved, run_dir, resume=False)
    if code:
        raise typer.Exit(code)
    outcome = json.loads(run_dir.outcome.read_text())
    last = outcome["policy_version"]
    print_summary(run_dir.path, out)
    results = {
        "start": _evaluate(resolved.model.path, resolved),
        f"version {last}": _evaluate(outcome["checkpoint"], resolved),
    }
    _print_evaluations(results)
    pictures = write_report(run_dir.path)
    out.print("\n[bold]Curves:[/bold] " + "  ".join(short(path) for path in pictures), soft_wrap=True)
    ring = short(Path(sys.executable).with_name("ring-async"))
    out.print(
        "\n[bold]What to try next[/bold]\n"
        f"  {ring} report {name}          the curves and a summary again\n"
        f"  {ring} audit {name}           prove that no trajectory went missing\n"
        f"  {ring} up configs/local.yaml run.name=mine correction.rule=cispo\n"
        f"  {ring} status --watch        from another terminal, while it runs\n"
        "  make demo-seeds                              the learning claim, with seeds and controls",
        highlight=False,
        soft_wrap=True,
    )


def _evaluate(model: str, config: Config) -> list[dict[str, Any]]:
    """Rows of an evaluation as plain data; progress and the time left go to stderr meanwhile."""
    import msgspec
    from rich.progress import Progress

    from ring_async.actors.evaluation import GREEDY_AND_SAMPLED, evaluate_checkpoint
    from ring_async.models import resolve_model_path

    num_answers = config.eval.num_problems * len(GREEDY_AND_SAMPLED)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(f"evaluating {model}", total=num_answers)
        evaluating = evaluate_checkpoint(config, resolve_model_path(model), on_answer=lambda: progress.advance(task))
        evaluation = asyncio.run(evaluating)
    return [msgspec.structs.asdict(row) for row in evaluation.rows()]


def _print_evaluations(evaluations: dict[str, list[dict[str, Any]]]) -> None:
    """Accuracy on held-out problems, one column for each model."""
    first = next(iter(evaluations.values()))
    num_problems = next(row["num_problems"] for row in first if row["source"] == "all")
    table = Table(title=f"share of {num_problems:,} held-out problems solved")
    table.add_column("source")
    table.add_column("sampling")
    for name in evaluations:
        table.add_column(name, justify="right")
    for index, row in enumerate(first):
        how = "greedy" if row["temperature"] == 0 else f"T = {row['temperature']:g}"
        shown = [f"{rows[index]['accuracy']:.3f}" for rows in evaluations.values()]
        table.add_row(row["source"], how, *shown, style="bold" if row["source"] == "all" else "")
    out.print(table)


# -- starting


def _up(config: Config, run_dir: RunDir, *, resume: bool) -> int:
    from ring_async.launch import Launcher

    check_parts(config)
    out.print(f"[bold]{config.run.name}[/bold] in {short(run_dir.path)}: bringing the fleet up", soft_wrap=True)
    done = threading.Event()
    progress = threading.Thread(target=_show_progress, args=(run_dir, config, done), daemon=True)
    progress.start()
    try:
        outcome = asyncio.run(Launcher(config, run_dir, is_resumed=resume).run())
    finally:
        done.set()
        progress.join(timeout=5.0)
    if outcome.failure:
        err.print(f"[red]failed:[/red] {outcome.failure}\nlogs: {short(run_dir.logs)}", soft_wrap=True, highlight=False)
    elif run_dir.outcome.exists():
        ended = json.loads(run_dir.outcome.read_text())
        where = f", checkpoint {short(Path(ended['checkpoint']))}" if ended["checkpoint"] else ""
        out.print(
            f"ended: {ended['reason']}; version {ended['policy_version']}{where}", soft_wrap=True, highlight=False
        )
        if ended["policy_version"] < config.stop.policy_versions:
            out.print("go on with the same command and --resume", highlight=False)
    return outcome.exit_code


def _show_progress(run_dir: RunDir, config: Config, done: threading.Event) -> None:
    from ring_async.monitoring.progress import Progress

    with Progress(config.stop.policy_versions, out) as progress:
        while not done.wait(0.5):
            progress.follow(run_dir.metrics)
        progress.follow(run_dir.metrics)


def _prepare_to_start(config: Config, run_dir: RunDir, *, resume: bool) -> None:
    if run_dir.endpoints.exists() and _is_alive(run_dir):
        raise RunError(f"{config.run.name} is up already; see: ring-async status --run {config.run.name}")
    exists = run_dir.config.exists()
    if exists and not resume:
        raise ConfigError(
            f"run.name: {config.run.name!r} exists in {run_dir.path.parent}; go on with it (--resume) or choose "
            f"another name (run.name={_free_name(run_dir.path.parent, config.run.name)})"
        )
    if resume and not exists:
        raise ConfigError(f"run.name: there is no run {config.run.name!r} in {run_dir.path.parent} to resume")
    if resume:
        resumed = keep_configured(config, run_dir.verifiers)
        for key, (before, now) in differing_keys(load_config(run_dir.config), resumed).items():
            out.print(f"  changed since: {key}: {before} → {now}", highlight=False)


def _up_detached(config: Path, overrides: list[str], run_dir: RunDir, *, resume: bool) -> None:
    run_dir.create()
    words = [
        sys.executable,
        "-m",
        "ring_async.cli.app",
        "up",
        str(config),
        *overrides,
        *(["--resume"] if resume else []),
    ]
    with (run_dir.logs / "launcher.log").open("ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    with out.status("bringing the fleet up"):
        while not run_dir.endpoints.exists():
            if process.poll() is not None:
                text = (run_dir.logs / "launcher.log").read_text()[-2000:]
                raise RunError(f"it did not come up (exit code {process.returncode}):\n{text}")
            time.sleep(0.1)
    out.print(f"up, process {process.pid}. Watch: ring-async status --watch   End: ring-async down")


def _is_alive(run_dir: RunDir) -> bool:
    try:
        ControlClient(run_dir, timeout_s=2.0).get("/v1/status")
    except RunError:
        return False
    return True


def _free_name(runs: Path, name: str) -> str:
    if not (runs / name).exists():
        return name
    return next(fresh for number in range(2, 10_000) if not (runs / (fresh := f"{name}-{number}")).exists())


for command in (samples, export, init, doctor):
    app.command()(command)
for name, change in (("mixture", changes.mixture), ("set", changes.set_knobs), ("scale", changes.scale)):
    app.command(name)(change)
app.add_typer(data.app, name="data")
app.add_typer(changes.swap_app, name="swap")
app.add_typer(changes.rollback_app, name="rollback")


def main(words: list[str] | None = None) -> Any:
    """Entry point: errors that people can mend become one clear screen and an exit code."""
    try:
        return app(args=words)
    except RingAsyncError as error:
        err.print("[red]error:[/red]", end=" ")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

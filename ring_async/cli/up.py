"""`ring-async up`: start a run, in the foreground or detached, and show its progress.

Owns: the command's options, the conditions under which a run may start, and the progress on screen. Does not own the
fleet (`launch`), nor the checks of configured parts (`check`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ring_async.cli.check import check_parts
from ring_async.cli.options import ConfigFile, Overrides, err, out, short
from ring_async.cli.page import page_notice
from ring_async.config.load import differing_keys, load_config
from ring_async.config.schema import Config
from ring_async.data.unchanged import changed_sources, data_digests
from ring_async.errors import ConfigError, RunError
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.storage.run_lock import hold_run, holder_of
from ring_async.verifiers.kept_files import keep_configured


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

    Ctrl-C once ends the run with a checkpoint; twice ends it at once. A terminal that closes ends it as Ctrl-C does.
    """
    resolved = load_config(config, overrides or [])
    run_dir = RunDir((Path(resolved.run.dir) / resolved.run.name).absolute())
    _check_name(resolved, run_dir, resume=resume)
    check_parts(resolved)
    if detach:
        _up_detached(config, overrides or [], run_dir, resume=resume)
        return
    raise typer.Exit(bring_up(resolved, run_dir, resume=resume))


def bring_up(config: Config, run_dir: RunDir, *, resume: bool) -> int:
    """Bring the fleet up and wait until the run ends; returns the exit code. The caller has checked the parts.

    Raises:
        ConfigError: the run's name cannot be used.
        RunError: another process holds the run.
    """
    _check_name(config, run_dir, resume=resume)
    with hold_run(run_dir):
        _check_name(config, run_dir, resume=resume)  # again: another run of this name may have begun meanwhile
        digests = data_digests(config)
        if resume:
            _show_changes(config, run_dir, digests)
        run_dir.create()
        write_json(run_dir.data, digests)
        return _bring_up(config, run_dir, resume=resume)


def _bring_up(config: Config, run_dir: RunDir, *, resume: bool) -> int:
    from ring_async.launch import Launcher
    from ring_async.monitoring.services import watched

    where = f" in {short(run_dir.path)}: bringing the fleet up"
    out.print(Text.assemble((config.run.name, "bold"), where), soft_wrap=True)
    done = threading.Event()
    progress = threading.Thread(target=_show_progress, args=(run_dir, config, done), daemon=True)
    progress.start()
    try:
        with watched(config, run_dir, lambda line: out.print(line, soft_wrap=True, highlight=False)):
            outcome = asyncio.run(Launcher(config, run_dir, is_resumed=resume).run())
    finally:
        done.set()
        progress.join(timeout=5.0)
    if outcome.failure:
        why = f"{outcome.failure}\nlogs: {short(run_dir.logs)}"
        err.print(Text.assemble(("failed: ", "red"), why), soft_wrap=True)
    elif run_dir.outcome.exists():
        ended = json.loads(run_dir.outcome.read_text())
        where = f", checkpoint {short(Path(ended['checkpoint']))}" if ended["checkpoint"] else ""
        out.print(
            f"ended: {ended['reason']}; version {ended['policy_version']}{where}", soft_wrap=True, highlight=False
        )
        if ended["policy_version"] < config.stop.policy_versions:
            out.print("go on with the same command and --resume", highlight=False)
    return outcome.exit_code


def free_name(runs: Path, name: str) -> str:
    """The name, or the name with the first number behind it that no run in `runs` has."""
    if not (runs / name).exists():
        return name
    return next(fresh for number in range(2, 10_000) if not (runs / (fresh := f"{name}-{number}")).exists())


def _show_progress(run_dir: RunDir, config: Config, done: threading.Event) -> None:
    from ring_async.monitoring.progress import Progress

    with Progress(config.stop.policy_versions, out) as progress:
        has_page = False
        while not done.wait(0.5):
            has_page = has_page or _show_page(run_dir)
            progress.follow(run_dir.metrics)
        progress.follow(run_dir.metrics)


def _show_page(run_dir: RunDir) -> bool:
    """Print where the live page is, once the controller serves it; returns whether it did."""
    if not run_dir.endpoints.exists():
        return False
    with contextlib.suppress(RunError):
        out.print(page_notice(run_dir), soft_wrap=True)
        return True
    return False


def _check_name(config: Config, run_dir: RunDir, *, resume: bool) -> None:
    exists = run_dir.config.exists()
    if exists and not resume:
        raise ConfigError(
            f"run.name: {config.run.name!r} exists in {run_dir.path.parent}; go on with it (--resume) or choose "
            f"another name (run.name={free_name(run_dir.path.parent, config.run.name)})"
        )
    if resume and not exists:
        raise ConfigError(f"run.name: there is no run {config.run.name!r} in {run_dir.path.parent} to resume")


def _show_changes(config: Config, run_dir: RunDir, digests: dict[str, str]) -> None:
    resumed = keep_configured(config, run_dir.verifiers)
    for key, (before, now) in differing_keys(load_config(run_dir.config), resumed).items():
        out.print(f"  changed since: {key}: {before} → {now}", highlight=False)
    if run_dir.data.exists():
        for name in changed_sources(config, json.loads(run_dir.data.read_text()), digests):
            out.print(f"  changed since: the files of sources.{name}", highlight=False)


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
        while not run_dir.endpoints.exists() or holder_of(run_dir) != process.pid:
            if process.poll() is not None:
                text = (run_dir.logs / "launcher.log").read_text()[-2000:]
                raise RunError(f"it did not come up (exit code {process.returncode}):\n{text}")
            time.sleep(0.1)
    out.print(f"up, process {process.pid}. Watch: ring-async status --watch   End: ring-async down")
    _show_page(run_dir)

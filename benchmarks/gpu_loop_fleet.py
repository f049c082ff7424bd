"""Fleets of the loop benchmark: brought up, steered and ended through the command line, as a person would.

Owns: one run's process, what is read of its files, and what is kept of it. Does not own which runs there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ring_async.control.client import ControlClient
from ring_async.storage.run_dir import RunDir

CLI = (sys.executable, "-m", "ring_async.cli.app")
_POLL_S = 0.2
_KEPT = ("metrics.jsonl", "events.jsonl", "config.json", "outcome.json", "report.html")


def log(words: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {words}", flush=True)


class FleetError(Exception):
    """A run ended, or did not get there in time."""


class Fleet:
    """One run. Example: `async with Fleet(runs, "a", config, overrides) as fleet: await fleet.until_version(5, 60.0)`.

    Args:
        runs: folder of runs.
        name: of the run.
        config: YAML file.
        overrides: `key=value` words.
        environment: what its process gets besides this one's.
    """

    def __init__(
        self, runs: Path, name: str, config: str, overrides: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.runs, self.name = runs, name
        self.dir = RunDir(runs / name)
        self._words = [*CLI, "up", config, f"run.name={name}", f"run.dir={runs}", *overrides]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        shutil.rmtree(self.dir.path, ignore_errors=True)
        self.runs.mkdir(parents=True, exist_ok=True)
        with (self.runs / f"{self.name}.up.txt").open("wb") as output:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment,
                start_new_session=True,
            )  # fmt: skip
        log(f"{self.name}: {' '.join(self._words[3:])}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        if kind is not None:
            print(self.last_words(), flush=True)

    @property
    def client(self) -> ControlClient:
        return ControlClient(self.dir)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    async def end(self) -> None:
        """Have it end with a checkpoint; what is left after a minute is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, 60.0)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await asyncio.to_thread(self.process.wait)

    def steps(self) -> list[dict[str, Any]]:
        return read_lines(self.dir.metrics)

    def events(self) -> list[dict[str, Any]]:
        return read_lines(self.dir.events)

    @property
    def version(self) -> int:
        """Versions trained so far."""
        steps = self.steps()
        return int(steps[-1]["policy_version"]) if steps else 0

    async def until(self, is_so: Callable[[], bool], what: str, timeout_s: float) -> bool:
        """Whether it came to be in time.

        Raises:
            FleetError: the run ended first, with an error.
        """
        give_up_s = time.monotonic() + timeout_s
        while not is_so():
            if self.process.poll() is not None and not is_so():
                if self.process.returncode == 0:
                    return is_so()
                raise FleetError(f"{self.name} ended with {self.process.returncode} before {what}")
            if time.monotonic() > give_up_s:
                log(f"{self.name}: no {what} within {timeout_s:.0f} s")
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def until_version(self, number: int, timeout_s: float) -> bool:
        """Whether it trained so many versions in time."""
        return await self.until(lambda: self.version >= number, f"version {number}", timeout_s)

    async def until_trains(self, timeout_s: float) -> float:
        """Wait for the first version; returns how long that took.

        Raises:
            FleetError: it did not come.
        """
        began_s = time.monotonic()
        if not await self.until_version(1, timeout_s):
            raise FleetError(f"{self.name} trained nothing within {timeout_s:.0f} s")
        return time.monotonic() - began_s

    async def command(self, *words: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """One command of the command line about this run; what it said, and its exit code."""
        where = ["--runs", str(self.runs)]
        positional = words[0] in ("audit", "report")
        command = [*CLI, *words, *([self.name] if positional else ["--run", self.name]), *where]
        try:
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            log(f"{self.name}: {' '.join(words)}: no end within {timeout_s:.0f} s")
            return {"exit_code": None, "text": ""}
        log(f"{self.name}: {' '.join(words)}: exit code {done.returncode}")
        text = (done.stdout + done.stderr).strip()
        if done.returncode:
            print(text[-2000:], flush=True)
        return {"exit_code": done.returncode, "text": text}

    def last_words(self) -> str:
        """The ends of all logs."""
        paths = [self.runs / f"{self.name}.up.txt", *sorted(self.dir.logs.glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in paths if path.exists()
        )

    def keep(self, folder: Path) -> None:
        """Copy what a reader would look at."""
        target = folder / self.name
        target.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            if (self.dir.path / name).exists():
                shutil.copyfile(self.dir.path / name, target / name)
        for path in [self.runs / f"{self.name}.up.txt", *self.dir.logs.glob("*.log")]:
            if path.exists():
                (target / path.name).write_bytes(path.read_bytes()[-100_000:])


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

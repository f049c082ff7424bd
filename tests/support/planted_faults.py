"""Runs in which something is planted, recorded for the rules of `core.explain`: the real actors under a virtual clock.

    python tests/support/planted_faults.py            # writes tests/unit/core/explain/recordings/*.json.gz again
    python tests/support/planted_faults.py slow_verifier

The fleet is the real one (controller, replay, rewards, rollouts, learner, evaluator); engines, training and weights are
scripted. A recording is the `History` that the controller had when the run was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from planted_deeds import JUMP
from planted_fleet import PLANTED_S, SLOW_ACTORS, Plan, PlantedFleet
from planted_plans import PLANS
from ring_async.actors.controller import controller as controller_module
from ring_async.actors.controller import run_history, run_log
from ring_async.actors.replay import reports
from ring_async.clock import monotonic_s
from ring_async.core.explain.history import History
from ring_async.testing.virtual_clock import DeadlockError, run_virtual

RECORDINGS = Path(__file__).parents[1] / "unit" / "core" / "explain" / "recordings"
BEGAN = 1_764_061_200.0
"""What the wall clock shows when a recorded run begins."""
END_S = 500.0
SAMPLE_S = 10.0


def record(plan: Plan, runs: Path, end_s: float = END_S) -> History:
    """Carry a plan out; returns what the controller remembered after `end_s`."""

    recorded: list[History] = []

    async def both() -> None:
        fleet = PlantedFleet(plan, runs)
        fleet.began_s = monotonic_s()
        running = asyncio.create_task(fleet.run())
        done, _ = await asyncio.wait([running], timeout=min(PLANTED_S, end_s))
        if plan.deed is not None and not done and end_s > PLANTED_S:
            doing = asyncio.create_task(plan.deed(fleet))
            doing.add_done_callback(lambda task: task.result())
        done, _ = await asyncio.wait([running], timeout=max(0.0, end_s - PLANTED_S))
        controller = fleet.controller
        if not done:
            controller.history.take()
        recorded.append(controller.history.recent())
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def wall() -> float:
        return BEGAN + monotonic_s() + sum(JUMP)

    JUMP.clear()
    SLOW_ACTORS.clear()
    with (
        mock.patch.object(run_log, "wall_s", wall),
        mock.patch.object(run_history, "wall_s", wall),
        mock.patch.object(run_history, "SAMPLE_S", SAMPLE_S),
        mock.patch.object(controller_module, "TICK_S", 0.5),
        mock.patch.object(reports, "REPORT_INTERVAL_S", 0.5),
        mock.patch.object(run_history, "_disk", return_value=(500 << 30, 1000 << 30)),
        contextlib.suppress(DeadlockError),  # an actor that was planted to hang hangs when it is to leave, too
    ):
        run_virtual(both(), limit_s=20_000.0)
    return recorded[0]


def write(name: str, runs: Path) -> Path:
    """Record one plan anew."""
    history = record(PLANS[name], runs / name)
    RECORDINGS.mkdir(exist_ok=True)
    path = RECORDINGS / f"{name}.json.gz"
    path.write_bytes(gzip.compress(msgspec.json.encode(_rounded(msgspec.to_builtins(history))), mtime=0))
    return path


def read(name: str) -> History:
    """A recording."""
    return msgspec.json.decode(gzip.decompress((RECORDINGS / f"{name}.json.gz").read_bytes()), type=History)


def until(history: History, seconds: float) -> History:
    """The same run as it was known `seconds` after its beginning."""
    end = history.samples[0].time + seconds
    parts = {name: tuple(o for o in getattr(history, name) if o.time <= end) for name in ("samples", "steps", "events")}
    return msgspec.structs.replace(history, **parts)


def _rounded(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_rounded(value) for value in plain]
    return round(plain, 3) if isinstance(plain, float) else plain


if __name__ == "__main__":
    from ring_async.core.explain.explain import explain

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for wanted in sys.argv[1:] or PLANS:
            written = write(wanted, Path(folder))
            said = [f"{one.cause}: {one.sentence}" for one in explain(read(wanted))]
            planted = " and ".join(PLANS[wanted].causes) or "healthy"
            print(wanted, f"({planted}, {written.stat().st_size:,} bytes)", *said, sep="\n    ", flush=True)

"""Asynchronous against synchronous training of the same configuration, in one run, and the proof of overlap.

    make bench-async          (about five minutes)

Runs `configs/local.yaml` in turn with `mode=async` and `mode=sync`, each for the same number of policy versions, and
prints trained and generated tokens per second over the steps after the first five, with their ratio; and which share of
the shorter of generating and training went on while the other did, from the run's trace. Writes build/bench/async.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bars import Bar, write_bars
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace_parts import busy_overlap

WARM_UP_VERSIONS = 5
MODES = ("async", "sync")


def run_once(runs: Path, mode: str, number: int, num_versions: int, config: str) -> dict[str, float]:
    name = f"{mode}-{number}"
    words = [
        "up", config, f"run.name={name}", f"run.dir={runs}", f"mode={mode}", f"stop.policy_versions={num_versions}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "ring_async.cli.app", *words], check=True, stdout=subprocess.DEVNULL)
    steps = [json.loads(line) for line in RunDir(runs / name).metrics.read_text().splitlines()]
    first, last = steps[WARM_UP_VERSIONS - 1], steps[-1]
    seconds = last["wall_s"] - first["wall_s"]
    measured = steps[WARM_UP_VERSIONS:]
    times = [step["wall_s"] for step in steps[WARM_UP_VERSIONS - 1 :]]
    since = [now - before for before, now in itertools.pairwise(times)]
    generated = sum(step["generated_tokens_per_s"] * took_s for step, took_s in zip(measured, since, strict=True))
    return {
        "trained_tokens_per_s": sum(step["loss_tokens"] for step in measured) / seconds,
        "generated_tokens_per_s": generated / seconds,
        "overlap": busy_overlap(RunDir(runs / name).trace_parts),
        "staleness_mean": statistics.fmean(step["staleness_mean"] for step in measured),
        "wait_batch_share": sum(step["wait_batch_s"] for step in measured) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each mode, in turn")
    parser.add_argument("--config", default="configs/local.yaml")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.repeats):
            for mode in MODES:
                results[mode].append(run_once(Path(folder), mode, number, options.versions, options.config))
                print(f"{mode} {number}: {results[mode][-1]['trained_tokens_per_s']:,.0f} trained tokens/s", flush=True)
    median: dict[str, dict[str, Any]] = {
        mode: {name: statistics.median(one[name] for one in runs) for name in runs[0]} for mode, runs in results.items()
    }
    table = Table(title=f"{options.config}, {options.versions} versions, median of {options.repeats}")
    for column in ("", *MODES, "async / sync"):
        table.add_column(column, justify="left" if not column else "right")
    for name in median["async"]:
        a, b = median["async"][name], median["sync"][name]
        table.add_row(name, f"{a:,.2f}", f"{b:,.2f}", f"{a / b:.2f}" if b else "")
    Console().print(table)
    speed_up = median["async"]["trained_tokens_per_s"] / median["sync"]["trained_tokens_per_s"]
    write_bars(
        "async",
        {
            "overlap": Bar(median["async"]["overlap"], 0.8, "share of the shorter"),
            "async_over_sync": Bar(speed_up, 1.0, "ratio of trained tokens/s"),
        },
    )


if __name__ == "__main__":
    main()

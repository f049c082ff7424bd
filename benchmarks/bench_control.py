"""What a change of verifier costs a run at work: how soon it is in force, and how long anybody waits for it.

    make bench-control          (about three minutes)

Brings `configs/local.yaml` up with a lenient verifier and swaps it 100 times for one with another tolerance, every
tenth time with `rescore`. Reported: the time from the decision to the last actor that acts on it, against the time that
one group's scoring takes; and the time that actors waited because of swaps (reward actors for a verifier to be put in
force, replay for new epoch rules), as a share of all actors' time meanwhile. Writes build/bench/control.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bars import Bar, write_bars
from ring_async.control.client import ControlClient
from ring_async.core.verifier_swap import SwapState
from ring_async.errors import RunError
from ring_async.storage.audit import audit
from ring_async.storage.run_dir import RunDir

VERIFIER = "examples/lenient_verifier.py:Lenient"
WARM_UP_VERSIONS = 3
WAITS = ("reward", "replay")


def counters(client: ControlClient) -> dict[str, dict[str, float]]:
    """The newest counters of every actor."""
    return {actor["actor_id"]: actor["counters"] for actor in client.get("/v1/status")["actors"]}


def total(found: dict[str, dict[str, float]], name: str) -> float:
    return sum(one.get(name, 0.0) for actor_id, one in found.items() if actor_id.rpartition("-")[0] in WAITS)


def swap_again_and_again(client: ControlClient, num_swaps: int, pause_s: float) -> list[dict[str, Any]]:
    swaps = []
    for number in range(num_swaps):
        time.sleep(pause_s)
        body = {
            "use": str(Path(VERIFIER).absolute()),
            "options": {"tolerance": 3.0 + number / 1000},
            "rescore": number % 10 == 9,
        }
        swap = client.post("/v1/verifiers/logic/swap", body)
        while not SwapState(swap["state"]).is_end:
            swap = client.get(f"/v1/swaps/{swap['swap_id']}?wait_s=5")
        assert swap["state"] == SwapState.COMMITTED, swap["reason"]
        swaps.append(swap)
    return swaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--pause-s", type=float, default=0.5, help="between two swaps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder) / "control")
        words = [
            "up", "configs/local.yaml", "run.name=control", f"run.dir={folder}", "stop.policy_versions=9999",
            f"verifiers.logic.use={VERIFIER}", "verifiers.logic.options={tolerance: 2.9}", "monitoring.heartbeat_s=0.2",
        ]  # fmt: skip
        up = subprocess.Popen([sys.executable, "-m", "ring_async.cli.app", *words], stdout=subprocess.DEVNULL)
        try:
            client = ControlClient(run_dir, timeout_s=30.0)
            wait_version(client, WARM_UP_VERSIONS, up)
            before, began_s = counters(client), time.monotonic()
            swaps = swap_again_and_again(client, options.swaps, options.pause_s)
            time.sleep(1.0)
            after, took_s = counters(client), time.monotonic() - began_s
            client.post("/v1/down", {"deadline_s": 20.0})
            assert up.wait(60) == 0
        finally:
            up.kill()
        assert audit(run_dir.path).is_clean
        steps = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    num_groups = (total(after, "verdicts") - total(before, "verdicts")) / 8
    scoring_s = (total(after, "busy_s") - total(before, "busy_s")) / num_groups
    waited = (total(after, "swap_wait_s") - total(before, "swap_wait_s")) / (took_s * len(after))
    commit_s = statistics.median(swap["commit_s"] for swap in swaps)
    slowest_s = max(swap["commit_s"] for swap in swaps)
    print(
        f"{len(swaps)} swaps in {took_s:.0f} s and {num_groups:,.0f} groups, to version {steps[-1]['policy_version']}; "
        f"prepared in {statistics.median(swap['prepare_s'] for swap in swaps) * 1e3:.0f} ms; in force after "
        f"{commit_s * 1e3:.1f} ms (slowest {slowest_s * 1e3:.0f} ms); a group is scored in {scoring_s * 1e3:.1f} ms"
    )
    write_bars(
        "control",
        {
            "commit_ms": Bar(commit_s * 1e3, 2 * scoring_s * 1e3 + 100, "ms, median", is_upper=True),
            "commit_slowest_ms": Bar(slowest_s * 1e3, 2 * scoring_s * 1e3 + 100, "ms, slowest", is_upper=True),
            "waited": Bar(waited, 0.01, "of all actors' time", is_upper=True),
        },
    )


def wait_version(client: ControlClient, number: int, up: subprocess.Popen[bytes]) -> None:
    """Until the run has come so far."""
    while up.poll() is None:
        try:
            if client.get("/v1/status")["policy_version"] >= number:
                return
        except RunError:
            pass
        time.sleep(0.2)
    raise RunError(f"the run ended with code {up.returncode}")


if __name__ == "__main__":
    main()

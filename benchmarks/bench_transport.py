"""The data plane beside the limit and beside peers, all in one run, interleaved.

    make bench-transport                                  (about three minutes)
    python benchmarks/bench_transport.py --rounds 9 --credits 16 1000

The payload is a group of 8 responses × 2,048 tokens, ids int32 and log-probabilities float32: two arrays of 64 KiB. In
every round each contender runs once, in turn, in fresh processes:

* limit: a bare ZMQ PUSH/PULL pair (ipc; tcp; tcp with CURVE): no envelope, no credits, no acknowledgement.
* ours: `GroupGenerated` with its full header, credits, every group acknowledged, as configured by default: 512
  credits, a quarter of what a bare pair has under way.
* `ray.util.queue` and TransferQueue: see `transport_peers`.

A bar's value is the median over rounds of the ratio within a round, so that a machine that is busy for a while slows
both sides of a ratio. Writes build/bench/transport.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bars import Bar, write_bars
from peer_packages import peer_environment
from transport_contenders import bare_curve, bare_ipc, bare_tcp, ring_curve, ring_ipc, ring_tcp
from transport_payload import GROUP_BYTES, GROUP_SIZE

OURS = {
    "bare ZMQ, ipc": bare_ipc,
    "ours, ipc": ring_ipc,
    "bare ZMQ, tcp": bare_tcp,
    "ours, tcp": ring_tcp,
    "bare ZMQ, tcp + CURVE": bare_curve,
    "ours, tcp + CURVE": ring_curve,
}
PEERS = ("ray.util.queue", "TransferQueue")


def run_peers(num_groups: int) -> dict[str, float]:
    """Seconds of each peer. They share one Ray, started and stopped here: nothing of it runs beside the others."""
    command = [sys.executable, str(Path(__file__).with_name("transport_peers.py")), str(num_groups)]
    for _ in range(3):  # on a busy machine Ray does not always start in time
        done = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, check=False)
        if not done.returncode:
            break
    else:
        raise SystemExit(f"the peers did not run:\n{done.stderr}")
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--groups", type=int, default=20_000, help="of a run over ipc; tcp a half, CURVE a quarter")
    parser.add_argument("--peer-groups", type=int, default=200)
    parser.add_argument("--credits", type=int, nargs="*", default=[], help="also over ipc with so many, each")
    options = parser.parse_args()
    contenders = OURS | {
        f"ours, ipc, {number} credits": partial(ring_ipc, credits=number) for number in options.credits
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rates: dict[str, list[float]] = {name: [] for name in (*contenders, *PEERS)}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            num_groups = options.groups // (4 if "CURVE" in name else 2 if "tcp" in name else 1)
            rates[name].append(num_groups * GROUP_SIZE / contender(num_groups))
        for name, seconds in run_peers(options.peer_groups).items():
            rates[name].append(options.peer_groups * GROUP_SIZE / seconds)
        print(f"round {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:,.0f}" for name in rates), flush=True)

    def bare(name: str) -> str:
        return ", ".join(["bare ZMQ", name.split(", ")[1]])

    def ratio(ours: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[ours], rates[other], strict=True))

    table = Table(title=f"responses/s, median of {options.rounds} interleaved runs (slowest to fastest)")
    for column in ("", "responses/s", "range", "MB/s", "of the bare pair"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, values in rates.items():
        median = statistics.median(values)
        share = f"{ratio(name, bare(name)):.0%}" if name.startswith("ours") else ""
        megabytes = median / GROUP_SIZE * GROUP_BYTES / 1e6
        table.add_row(name, f"{median:,.0f}", f"{min(values):,.0f} to {max(values):,.0f}", f"{megabytes:,.0f}", share)
    Console(width=110).print(table)
    write_bars(
        "transport",
        {
            "ipc_of_bare_ipc": Bar(ratio("ours, ipc", "bare ZMQ, ipc"), 0.5, "share"),
            "ipc_over_transfer_queue": Bar(ratio("ours, ipc", "TransferQueue"), 50.0, "times"),
            "curve_of_bare_curve": Bar(ratio("ours, tcp + CURVE", "bare ZMQ, tcp + CURVE"), 0.6, "share"),
        },
    )


if __name__ == "__main__":
    main()

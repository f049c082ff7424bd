"""Weights on one host: shared memory against a memcpy of the same run, and ZMQ whole and as a delta.

    make bench-weights
    python benchmarks/bench_weights.py --mib 1024 --receivers 2

Shared memory: `publish` of 1 GiB of bf16 to two receivers in processes of their own, which map and verify it, and swap
by rebinding. The bar is the sender's speed against `memcpy` (numpy's copy of the same bytes into memory that is there
already), taken right before each publish: median of the ratios. The first versions touch fresh memory and are shown
apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from ring_async.config.schema import TransportSection
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.weights.shm import ShmWeightReceiver, ShmWeightSender
from ring_async.transport.weights.zmq.receiver import ZmqWeightReceiver
from ring_async.transport.weights.zmq.sender import ZmqWeightSender
from ring_async.types import PolicyVersion

NUM_COLD = 4
"""Versions until every slab has been used once."""


def make_tensors(num_bytes: int) -> dict[str, torch.Tensor]:
    """bf16 tensors shaped like a small dense transformer, random values."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    total = layer = 0
    while total < num_bytes:
        for name, shape in {
            "q": (2048, 2048), "k": (512, 2048), "v": (512, 2048), "o": (2048, 2048),
            "gate": (8192, 2048), "up": (8192, 2048), "down": (2048, 8192), "norm": (2048,),
        }.items():  # fmt: skip
            tensor = torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)
            tensors[f"layers.{layer}.{name}"] = tensor
            total += tensor.numel() * 2
        layer += 1
    return tensors


def receive(pipe: Connection) -> None:
    """Stage and swap what is announced; report how long both took, and memory that is this process's alone."""
    receiver = ShmWeightReceiver()
    parameters: dict[str, torch.Tensor] = {}
    while True:
        announcement = pipe.recv()
        if announcement is None:
            return
        staged = receiver.stage(announcement)
        start_s = time.perf_counter()
        parameters.update(staged.tensors)
        staged.close()
        pause_s = time.perf_counter() - start_s
        rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private_kib = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Anonymous")))
        pipe.send((staged.report.stage_s, pause_s, private_kib * 1024))


def bench_shm(tensors: dict[str, torch.Tensor], options: argparse.Namespace) -> dict[str, dict[str, object]]:
    num_bytes = sum(tensor.numel() * 2 for tensor in tensors.values())
    context = multiprocessing.get_context("spawn")
    pipes = []
    processes = []
    for _ in range(options.receivers):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=receive, args=(theirs,)))
        processes[-1].start()
        pipes.append(ours)
    sender = ShmWeightSender()
    source, target = np.ones(num_bytes, dtype=np.uint8), np.zeros(num_bytes, dtype=np.uint8)
    rows = []
    for number in range(NUM_COLD + options.repeats):
        start_s = time.perf_counter()
        np.copyto(target, source)
        memcpy_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        announcement = sender.publish(PolicyVersion(0, number), tensors.items())
        publish_s = time.perf_counter() - start_s
        for pipe in pipes:
            pipe.send(announcement)
        answers = [pipe.recv() for pipe in pipes]
        rows.append((memcpy_s, publish_s, *(max(column) for column in zip(*answers, strict=True))))
        gb = num_bytes / 1e9
        print(
            f"{'cold' if number < NUM_COLD else 'warm'}  memcpy {gb / memcpy_s:5.2f} GB/s  "
            f"publish {gb / publish_s:5.2f} GB/s  ratio {memcpy_s / publish_s:4.2f}  "
            f"stage {rows[-1][2] * 1e3:6.1f} ms  swap {rows[-1][3] * 1e3:5.2f} ms"
        )
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    sender.close()
    warm = rows[NUM_COLD:]
    growth = (max(row[4] for row in rows) - rows[0][4]) / num_bytes
    return {
        "shm_publish_of_memcpy": bar(
            statistics.median(row[0] / row[1] for row in warm), 0.60, "ratio", is_minimum=True
        ),
        "shm_swap_pause": bar(max(row[3] for row in rows) * 1e3, 10.0, "ms"),
        "shm_receiver_copies": bar(growth, 0.01, "ratio"),
        "shm_stage": {"value": statistics.median(row[2] for row in warm) * 1e3, "unit": "ms"},
        "shm_publish_cold_of_memcpy": {"value": rows[1][0] / rows[1][1], "unit": "ratio"},
    }


def bench_zmq(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, object]]:
    """Whole over ipc; then deltas after steps that change 0.1, 1 and 10 % of the values."""
    folder = make_socket_dir()
    sender = ZmqWeightSender("weights", transport=TransportSection(), socket_dir=folder)
    receiver = ZmqWeightReceiver()
    results: dict[str, dict[str, object]] = {}
    staged = receiver.stage(sender.publish(PolicyVersion(0, 0), tensors.items()))
    whole = staged.report
    results["zmq_whole"] = {"value": whole.num_bytes / 1e9 / whole.stage_s, "unit": "GB/s"}
    generator = torch.Generator().manual_seed(1)
    for number, share in enumerate((0.001, 0.01, 0.1), start=1):
        for tensor in tensors.values():
            words = tensor.view(-1).view(torch.int16)
            chosen = torch.randint(0, words.numel(), (int(share * words.numel()),), generator=generator)
            words[chosen] += 1
        staged = receiver.stage(sender.publish(PolicyVersion(0, number), tensors.items()))
        assert all(
            torch.equal(staged.tensors[name].view(torch.int16), t.view(torch.int16)) for name, t in tensors.items()
        )
        results[f"zmq_delta_{share:g}_changed"] = {"value": staged.report.delta_ratio, "unit": "ratio"}
        results[f"zmq_delta_{share:g}_stage"] = {"value": staged.report.stage_s * 1e3, "unit": "ms"}
    receiver.close()
    sender.close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return results


def bar(value: float, limit: float, unit: str, *, is_minimum: bool = False) -> dict[str, object]:
    return {"value": value, "bar": limit, "holds": value >= limit if is_minimum else value <= limit, "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--zmq-mib", type=int, default=256)
    parser.add_argument("--receivers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench/weights.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bars = bench_shm(make_tensors(options.mib << 20), options)
    bars |= bench_zmq(make_tensors(options.zmq_mib << 20))
    for name, entry in bars.items():
        verdict = f"bar {entry['bar']:g}  {'holds' if entry['holds'] else 'FAILS'}" if "bar" in entry else ""
        print(f"{name:32s} {entry['value']:9.3f} {entry['unit']:6s} {verdict}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    command = " ".join(["python", *sys.argv])
    report = {"bars": bars, "command": command, "commit": commit, "machine": platform.platform()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

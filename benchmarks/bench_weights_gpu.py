"""Weights over NCCL between two GPUs: end to end against a raw broadcast of the same run, and a receiver killed.

    make bench-weights-gpu                                  # two GPUs: 4 GiB and 32 GiB of bf16
    python benchmarks/bench_weights_gpu.py --host --gib 0.05  # rehearsal on a CPU, over the fake communicator

End to end: from the call of `publish` to the moment the receiver has the version staged, every bucket's checksum
compared, while its engine goes on computing. Raw: the same number of bytes, packed already, broadcast by NCCL with
nothing around it, at the chunk size that is fastest; with the receiver's engine computing the same way.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from ring_async.config.schema import TransportSection
from ring_async.testing.weight_peer import WeightPeer, broadcast_raw, digest, open_device
from ring_async.transport.weights.nccl.device import WeightDevice
from ring_async.transport.weights.nccl.round import RoundTimes
from ring_async.transport.weights.nccl.sender import NcclWeightSender
from ring_async.types import PolicyVersion

GIB = 1 << 30


def make_tensors(num_bytes: int, device: str) -> dict[str, torch.Tensor]:
    """bf16 tensors shaped like a dense transformer's layers, random bits, about `num_bytes` together."""
    hidden = 5120 if num_bytes >= 16 * GIB else 2560 if num_bytes >= GIB else 64
    heads, keys, mlp = int(1.6 * hidden), int(0.2 * hidden), 5 * hidden
    shapes = {
        "q": (heads, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, heads),
        "gate": (mlp, hidden),
        "up": (mlp, hidden),
        "down": (hidden, mlp),
        "norm": (hidden,),
        "post_norm": (hidden,),
    }
    generator = torch.Generator(device=device).manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    total = 0
    layer = 0
    while total < num_bytes:
        for name, shape in shapes.items():
            tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
            tensor.normal_(0.0, 0.02, generator=generator)
            tensors[f"layers.{layer}.{name}.weight"] = tensor
            total += tensor.numel() * 2
        layer += 1
    return tensors


def change(tensors: dict[str, torch.Tensor]) -> None:
    """An optimizer step, as far as weights are concerned."""
    for tensor in tensors.values():
        tensor.add_(0.001)


def measure_size(gib: float, index: int | None, device: WeightDevice, options: argparse.Namespace) -> dict[str, float]:
    tensors = make_tensors(int(gib * GIB), "cpu" if index is None else f"cuda:{index}")
    num_bytes = sum(tensor.numel() * 2 for tensor in tensors.values())
    result: dict[str, float] = {"gib": num_bytes / GIB, "num_tensors": len(tensors)}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        sender = open_sender(device, folder, options)
        peer = WeightPeer("receiver", None if index is None else 1)
        peer.call("join", sender.endpoint)
        times, pauses, copies, packs, stages = [], [], [], [], []
        for number in range(options.repeats + 2):
            if number:
                change(tensors)
            synchronize(index)
            start_s = time.monotonic()
            announcement = sender.publish(PolicyVersion(0, number), tensors.items())
            packs.append(time.monotonic() - start_s)
            staged = peer.call("stage", announcement, number == options.repeats + 1)
            times.append(staged.staged_s - start_s)
            stages.append(
                {field: 1e3 * (getattr(staged.times, field) - start_s) for field in RoundTimes.__dataclass_fields__}
            )
            swapped = peer.call("swap", number % 2 == 1)
            (copies if number % 2 == 1 else pauses).append(swapped.pause_s)
        result["is_bit_exact"] = float(staged.digest == digest(tensors.items()))
        result["end_to_end_s"] = statistics.median(times[2:])
        result["publish_s"] = statistics.median(packs[2:])
        result["pause_rebind_s"] = max(pauses)
        result["pause_copy_s"] = max(copies[1:] or copies)
        steps, since_s = peer.call("num_steps"), time.monotonic()
        time.sleep(1.0)
        result["engine_steps_per_s"] = (peer.call("num_steps") - steps) / (time.monotonic() - since_s)
        sender.close()
        result |= measure_raw(device, peer, num_bytes, options)
        result["ratio"] = result["raw_s"] / result["end_to_end_s"]
        peer.close()
    median_stages = {name: round(statistics.median(stage[name] for stage in stages[2:]), 2) for name in stages[0]}
    print(json.dumps({"times_s": times, "publish_s": packs, "stages_ms": median_stages, **result}), flush=True)
    return result


def measure_raw(
    device: WeightDevice, peer: WeightPeer, num_bytes: int, options: argparse.Namespace
) -> dict[str, float]:
    memory = device.empty(num_bytes)
    unique_id = device.make_unique_id()
    peer.begin("raw_connect", unique_id, num_bytes)
    communicator = device.connect(unique_id, 2, 0)
    peer.result()
    best = {}
    for chunk_bytes in options.raw_chunks:
        times = []
        for _ in range(options.repeats + 1):
            peer.begin("raw_broadcast", chunk_bytes)
            time.sleep(0.02)  # The receiver's kernel waits there already.
            start_s = time.monotonic()
            here_s = broadcast_raw(device, communicator, memory, chunk_bytes)
            times.append(max(here_s, peer.result()) - start_s)
        best[chunk_bytes] = statistics.median(times[1:])
    peer.begin("raw_close")
    communicator.destroy()
    peer.result()
    chunk_bytes = min(best, key=lambda size: best[size])
    return {
        "raw_s": best[chunk_bytes],
        "raw_chunk_mib": chunk_bytes / 2**20,
        **{f"raw_{size >> 20}_mib_gb_per_s": num_bytes / 1e9 / seconds for size, seconds in best.items()},
    }


def measure_kill(gib: float, index: int | None, device: WeightDevice, options: argparse.Namespace) -> dict[str, float]:
    """SIGKILL a receiver in mid-broadcast; publish on; let it rejoin; publish."""
    tensors = make_tensors(int(gib * GIB), "cpu" if index is None else f"cuda:{index}")
    num_bytes = sum(tensor.numel() * 2 for tensor in tensors.values())
    peer_index = None if index is None else 1
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        sender = open_sender(device, folder, options)
        peer = WeightPeer("receiver", peer_index)
        peer.call("join", sender.endpoint)
        announcement = sender.publish(PolicyVersion(0, 0), tensors.items())
        start_s = time.monotonic()
        peer.call("stage", announcement)
        usual_s = time.monotonic() - start_s
        publisher = threading.Thread(target=sender.publish, args=(PolicyVersion(0, 1), tensors.items()))
        publisher.start()
        while not (sender.waiting_for or "").startswith("sending"):
            time.sleep(0.001)
        time.sleep(usual_s / 2 if index is None else 0.3 * num_bytes / 360e9)
        waiting_for = sender.waiting_for or ""
        peer.kill()
        killed_s = time.monotonic()
        while sender.members:
            time.sleep(0.01)
        dropped_s = time.monotonic() - killed_s
        publisher.join()
        change(tensors)
        sender.publish(PolicyVersion(0, 2), tensors.items())
        published_s = time.monotonic() - killed_s
        peer = WeightPeer("receiver", peer_index)
        joined_s = peer.call("join", sender.endpoint)
        while not sender.members:
            time.sleep(0.005)
        change(tensors)
        announcement = sender.publish(PolicyVersion(0, 3), tensors.items())
        staged = peer.call("stage", announcement, True)
        swapped = peer.call("swap")
        is_exact = staged.digest == digest(tensors.items())
        peer.close()
        sender.close()
    result = {
        "was_sending_when_killed": float(waiting_for.startswith("sending")),
        "dropped_after_s": dropped_s,
        "next_publish_after_kill_s": published_s,
        "in_force_after_rejoin_s": swapped.in_force_s - joined_s,
        "is_bit_exact": float(is_exact),
    }
    print(json.dumps(result), flush=True)
    return result


def open_sender(device: WeightDevice, folder: str, options: argparse.Namespace) -> NcclWeightSender:
    return NcclWeightSender(
        "weights",
        device=device,
        transport=TransportSection(),
        socket_dir=Path(folder),
        bucket_bytes=options.bucket_mib << 20,
        deadline_s=30.0,
    )


def synchronize(index: int | None) -> None:
    if index is not None:
        torch.cuda.synchronize(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--gib", type=float, nargs="+", default=[4, 32])
    parser.add_argument("--kill-gib", type=float, default=None)
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--bucket-mib", type=int, default=512)
    parser.add_argument("--raw-chunk-mib", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench/weights-gpu.json"))
    options = parser.parse_args()
    options.raw_chunks = [mib << 20 for mib in options.raw_chunk_mib]
    torch.set_num_threads(1)
    index = None if options.host else 0
    # A rehearsal is slow enough to be interrupted.
    device = open_device(index, bytes_per_s=2e8 if options.host else None)
    bars: dict[str, dict[str, object]] = {}
    for gib in options.gib:
        result = measure_size(gib, index, device, options)
        if index is not None:
            torch.cuda.empty_cache()
        name = f"{gib:g}_gib"
        print(
            f"{name}: end to end {result['end_to_end_s'] * 1e3:.1f} ms, raw {result['raw_s'] * 1e3:.1f} ms "
            f"({result['raw_chunk_mib']:.0f} MiB chunks), pause {result['pause_rebind_s'] * 1e3:.2f} ms rebinding, "
            f"{result['pause_copy_s'] * 1e3:.1f} ms copying"
        )
        bars[f"{name}_of_raw"] = bar(result["ratio"], 0.85, "ratio", is_minimum=True)
        bars[f"{name}_pause_rebind"] = bar(result["pause_rebind_s"] * 1e3, 100.0, "ms")
        bars[f"{name}_pause_copy"] = bar(result["pause_copy_s"] * 1e3, 100.0, "ms")
        bars[f"{name}_bit_exact"] = bar(result["is_bit_exact"], 1.0, "bool", is_minimum=True)
    if options.no_kill:
        report_bars(bars, index, options)
        return
    killed = measure_kill(options.kill_gib or max(options.gib), index, device, options)
    bars["killed_while_sending"] = bar(killed["was_sending_when_killed"], 1.0, "bool", is_minimum=True)
    bars["killed_dropped_after"] = bar(killed["dropped_after_s"], 10.0, "s")
    bars["killed_in_force_after_rejoin"] = bar(killed["in_force_after_rejoin_s"], 10.0, "s")
    bars["killed_bit_exact"] = bar(killed["is_bit_exact"], 1.0, "bool", is_minimum=True)
    report_bars(bars, index, options)


def report_bars(bars: dict[str, dict[str, object]], index: int | None, options: argparse.Namespace) -> None:
    for name, entry in bars.items():
        verdict = "holds" if entry["holds"] else "FAILS"
        print(f"{name:34s} {entry['value']:10.3f} {entry['unit']:6s} bar {entry['bar']:g}  {verdict}")
    machine = (
        platform.processor()
        if index is None
        else ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", *sys.argv])
    report = {"bars": bars, "command": command, "commit": commit, "machine": machine}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def bar(value: float, limit: float, unit: str, *, is_minimum: bool = False) -> dict[str, object]:
    return {"value": value, "bar": limit, "holds": value >= limit if is_minimum else value <= limit, "unit": unit}


if __name__ == "__main__":
    main()

"""What a process uses of its machine: room on the run's disk, memory of its GPU, share of the GPU's arithmetic.

Owns: reading these figures into metrics. Does not own when they are read (with each heartbeat).
Invariant: nothing here imports torch. A process that has loaded it is asked; any other has no GPU figures.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

from ring_async.telemetry import metrics

PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations a second, by a word of the device's name (NVIDIA's data sheets)."""


def observe_resources(folder: Path) -> None:
    """Set the gauges of disk and GPU memory. A disk that cannot be asked changes nothing."""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        metrics.actor_disk_free.set(usage.free)
        metrics.actor_disk_size.set(usage.total)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        metrics.actor_gpu_memory.set(torch.cuda.memory_reserved())


def peak_flops() -> float | None:
    """Operations a second that this process's GPU can do in bfloat16; None without a GPU whose figure is known."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for word, flops in PEAK_FLOPS.items() if word in name), None)

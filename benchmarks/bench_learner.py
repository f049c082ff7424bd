"""The learner on one GPU: MFU of both trainers beside plain PyTorch and the common way, in one call of 8 minutes.

    make bench-learner                                       one H100 or H200
    python benchmarks/bench_learner.py --rehearse            every line on a CPU, tiny models, figures without meaning

Through `TrainEngine.train_batch` on batches that `core` packed: Φ = 131,072, log-normal lengths of mean 2,000, IcePop,
entropy, clip, AdamW; the KL penalty off. MFU counts products of forward and backward and causal attention of the tokens
that carry meaning, against 989 TFLOP/s; recomputation and padding are not counted. The limit is the same step in plain
PyTorch on full rows (`learner_limit`), the common way is transformers with padded batches.

Figures are written after every case, so a call that is cut short keeps what it measured.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bars import Bar, write_bars
from learner_limit import common_step, plain_step, row_flops
from learner_shapes import (
    DENSE,
    EXPERTS,
    PEAK_FLOPS,
    TINY,
    TINY_EXPERTS,
    Shape,
    flops_of,
    make_batch,
    write_model,
)
from ring_async.config.schema import Config
from ring_async.testing.builders import make_config
from ring_async.training.base import TrainEngine
from ring_async.training.hf.engine import HfTrainEngine

WARM_UP = 2


class Bench:
    """What all cases share: the device, sizes, and the bars so far."""

    def __init__(self, folder: Path, *, is_rehearsal: bool, trainer: str | None = None) -> None:
        self.folder = folder
        self.is_rehearsal = is_rehearsal
        self.device = "cpu" if is_rehearsal else "cuda"
        self.backend = "aot_eager" if is_rehearsal else "inductor"
        self.budget = 256 if is_rehearsal else 131_072
        self.mean = 20 if is_rehearsal else 2000
        self.bars: dict[str, Bar] = {}
        self.name = f"learner-{trainer}" if trainer else "learner"
        self.began_s = time.perf_counter()

    def add(self, name: str, value: float, bar: float, unit: str, *, is_upper: bool = False) -> None:
        self.bars[name] = Bar(value, bar, unit, is_upper=is_upper)
        write_bars(self.name, self.bars)

    def clear(self) -> None:
        gc.collect()
        torch._dynamo.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def seconds(self, step: Callable[[], Any]) -> float:
        began_s = time.perf_counter()
        step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began_s


def measure(
    bench: Bench,
    shape: Shape,
    model: Path,
    capacity: int,
    recompute: float,
    num_steps: int,
    *,
    kl: float = 0.0,
    trainer: str = "hf",
) -> tuple[float, list[float]]:
    """Median MFU, and seconds over counted FLOPs of every step."""
    bench.clear()
    options = {"attention": "varlen"}
    if trainer == "hf":
        options |= {"head": "chunked", "compile": bench.backend}
    config = make_config(
        model__dtype="bfloat16",
        learner__engine=trainer,
        budget__token_budget=bench.budget,
        learner__token_capacity=capacity,
        learner__rows_per_microbatch=1,
        learner__recompute=recompute,
        learner__engine_options=options if bench.is_rehearsal else {},
        learner__num_threads=1 if bench.is_rehearsal else 8,
        loss__kl_coefficient=kl,
    )
    engine = make_engine(config, model)
    # What the frozen reference costs: its forward, a third of forward and backward.
    factor = 4 / 3 if kl else 1.0
    costs = []
    for seed in range(WARM_UP + num_steps):
        batch = make_batch(shape, bench.budget, capacity, seed, mean=bench.mean)
        seconds = bench.seconds(lambda batch=batch: engine.train_batch(batch))
        if seed >= WARM_UP:
            costs.append(seconds / (factor * flops_of(shape, batch)))
        print(f"  {trainer} {shape.name}, rows of {capacity:,}, step {seed}: {seconds:.2f} s", flush=True)
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else 0.0
    mfu = 1 / (PEAK_FLOPS * statistics.median(costs))
    print(f"{trainer} {shape.name}, rows of {capacity:,}: {100 * mfu:.1f} % MFU, {peak:.1f} GiB", flush=True)
    engine.close()
    return mfu, costs


def make_engine(config: Config, model: Path) -> TrainEngine:
    """The trainer that a configuration names, on one rank."""
    if config.learner.engine == "hf":
        return HfTrainEngine(config, model)
    from ring_async.training.megatron.engine import MegatronTrainEngine

    return MegatronTrainEngine(config, model)


def measure_megatron(bench: Bench, shape: Shape, model: Path, capacity: int, num_steps: int) -> float:
    """Median MFU of one rank, with as little computed again as fits."""
    from ring_async.training.megatron.groups import give_up_groups
    from ring_async.training.ranks import alone

    for recompute in (0.0, 0.25, 0.75):
        try:
            return measure(bench, shape, model, capacity, recompute, num_steps, trainer="megatron")[0]
        except torch.OutOfMemoryError:
            print(f"megatron {shape.name}: {recompute:g} of the layers computed again is too little", flush=True)
            give_up_groups(alone(bench.device))  # the engine that did not fit could not
    return 0.0


def measure_plain(bench: Bench, shape: Shape, capacity: int, *, recompute: bool) -> float:
    """MFU of the same step in plain PyTorch, rows filled."""
    bench.clear()
    # As many whole rows as the budget has: the limit knows no remainder.
    batch = make_batch(shape, bench.budget - bench.budget // 16, capacity, 0, mean=bench.mean)
    step = plain_step(shape, batch, bench.device, recompute=recompute, backend=bench.backend)
    times = [bench.seconds(step) for _ in range(WARM_UP + 4)][WARM_UP:]
    mfu = row_flops(shape, batch) / statistics.median(times) / PEAK_FLOPS
    print(f"plain {shape.name}, rows of {capacity:,}: {100 * mfu:.1f} % MFU", flush=True)
    return mfu


def measure_common(bench: Bench, shape: Shape, capacity: int) -> float:
    """Loss tokens a second the common way."""
    bench.clear()
    batch = make_batch(shape, bench.budget, capacity, 0, mean=bench.mean)
    step = common_step(shape, batch, bench.device, capacity // 2)
    done: list[int] = []
    times = [bench.seconds(lambda: done.append(step())) for _ in range(3)]
    return done[-1] / min(times[1:])


def write_models(bench: Bench) -> dict[Shape, Path]:
    """The dense shape and the one with experts."""
    shapes = (TINY, TINY_EXPERTS) if bench.is_rehearsal else (DENSE, EXPERTS)
    return {shape: write_model(shape, bench.folder / str(i), bench.device) for i, shape in enumerate(shapes)}


def run(bench: Bench) -> None:
    dense, experts = (TINY, TINY_EXPERTS) if bench.is_rehearsal else (DENSE, EXPERTS)
    short, long = (64, 128) if bench.is_rehearsal else (16_384, 32_768)
    few, many = (1, 2) if bench.is_rehearsal else (4, 50)
    costs: dict[str, list[float]] = {}
    models = write_models(bench)
    cases = (
        ("dense, rows of 16k", dense, short, 0.0, many, 0.46),
        ("dense, rows of 32k", dense, long, 0.5, few, 0.40),
        ("slice of Ling-lite, rows of 32k", experts, long, 0.0, few, 0.35),
    )
    for name, shape, capacity, recompute, num_steps, bar in cases:
        try:
            mfu, costs[name] = measure(bench, shape, models[shape], capacity, recompute, num_steps)
            bench.add(f"hf: {name}", mfu, bar, "MFU")
            limit = measure_plain(bench, shape, capacity, recompute=recompute > 0)
            bench.add(f"plain PyTorch: {name}", limit, 0.0, "MFU")
            bench.add(f"hf over plain: {name}", mfu / limit, 0.88, "ratio")
        except torch.OutOfMemoryError as error:
            print(f"{name}: {error}", flush=True)
            bench.add(f"hf: {name}", 0.0, bar, "MFU")
    steps = costs[cases[0][0]]
    spread = float(np.std(steps) / np.mean(steps))
    bench.add(f"variation of seconds over FLOPs, {many} steps", spread, 0.02, "ratio", is_upper=True)
    batch = make_batch(dense, bench.budget, short, 0, mean=bench.mean)
    tokens_per_s = bench.budget / (statistics.median(steps) * flops_of(dense, batch))
    bench.add("hf over the common way", tokens_per_s / measure_common(bench, dense, short), 1.5, "ratio")
    with_kl, _ = measure(bench, dense, models[dense], short, 0.0, few, kl=0.1)
    bench.add("hf: dense, rows of 16k, with KL penalty (reported)", with_kl, 0.0, "MFU")
    run_megatron(bench, models)
    print(f"{time.perf_counter() - bench.began_s:.0f} s in all", flush=True)


def run_megatron(bench: Bench, models: dict[Shape, Path]) -> None:
    """The other trainer on one rank. Args: `models`, of the dense shape and of the one with experts."""
    rows = 64 if bench.is_rehearsal else 16_384
    for (name, bar), (shape, model) in zip(
        (("dense, rows of 16k", 0.35), ("slice of Ling-lite", 0.28)), models.items(), strict=True
    ):
        mfu = measure_megatron(bench, shape, model, rows, 1 if bench.is_rehearsal else 4)
        bench.add(f"megatron: {name}", mfu, bar, "MFU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--trainer", choices=["megatron"], help="its rows alone")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the learner's process has it
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), is_rehearsal=arguments.rehearse, trainer=arguments.trainer)
        if arguments.trainer == "megatron":
            run_megatron(bench, write_models(bench))
        else:
            run(bench)


if __name__ == "__main__":
    main()

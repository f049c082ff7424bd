"""The learner on two GPUs: the losses of one, its speed over that of one, and a larger model; a call of 8 minutes.

    make bench-learner-2                                     two H100s or H200s of one host
    python benchmarks/bench_learner_2.py --rehearse          every line on a CPU, tiny models, figures without meaning

One process of one rank, then two of two (`shard=2`), train the same batches of Φ = 131,072 of a 1.7B shape. Bars: the
entropy and the gradient norm of 20 steps agree within what bfloat16 leaves of them; two GPUs do 1.8 times the work of
one. Then a 4B Qwen3 shape trains in rows of 16k on two. A rank killed and one stopped are `tests/integration/
test_learner_ranks.py`, which runs on GPUs as it does on CPUs.
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
from learner_shapes import DENSE, DENSE_4B, PEAK_FLOPS, TINY, Shape, flops_of, make_batch, write_model
from ring_async.core.rank_batches import batch_of_rank
from ring_async.testing.builders import make_config
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.ranks import RankPlace, join_ranks

SHAPES = {"dense": DENSE, "4B": DENSE_4B, "tiny": TINY}
TIMEOUT_S = 300.0


def train(plan: dict[str, Any]) -> None:
    """One rank's process: train the plan's batches; rank 0 writes a line for each."""
    shape: Shape = SHAPES[plan["shape"]]
    num_ranks, budget, capacity = plan["num_ranks"], plan["budget"], plan["capacity"]
    device = "cpu" if plan["is_rehearsal"] else f"cuda:{plan['rank']}"
    ranks = join_ranks(RankPlace(plan["rank"], num_ranks, plan["store"], device))
    options = {"attention": "varlen", "head": "chunked", "compile": "aot_eager"}
    config = make_config(
        model__dtype="bfloat16",
        budget__token_budget=budget,
        learner__learning_rate=1e-6,
        learner__token_capacity=capacity,
        learner__rows_per_microbatch=1,
        learner__recompute=plan["recompute"],
        learner__parallel__shard=num_ranks,
        learner__num_threads=1 if plan["is_rehearsal"] else 8,
        learner__engine_options=options if plan["is_rehearsal"] else {},
    )
    engine = HfTrainEngine(config, Path(plan["model"]), ranks)
    lines = []
    for seed in range(plan["num_steps"]):
        batch = make_batch(shape, budget, capacity, seed, mean=plan["mean"], num_ranks=2)
        own, share = batch_of_rank(batch, ranks.rank) if num_ranks > 1 else (batch, None)
        ranks.barrier()
        began_s = time.perf_counter()
        metrics = engine.train_batch(own, share).metrics
        ranks.barrier()
        seconds = time.perf_counter() - began_s
        if ranks.rank == 0:
            figures = {name: metrics[name] for name in ("entropy", "surrogate", "grad_norm")}
            lines.append({"seconds": seconds, "flops": flops_of(shape, batch)} | figures)
            Path(plan["out"]).write_text(json.dumps(lines))
            print(f"  {plan['shape']} on {num_ranks}, step {seed}: {seconds:.2f} s", flush=True)
    ranks.leave()


def run_ranks(num_ranks: int, plan: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train on so many ranks; returns rank 0's lines."""
    name = f"{plan['shape']}-{num_ranks}-{len(list(folder.iterdir()))}"
    out = folder / f"{name}.json"
    plan |= {"num_ranks": num_ranks, "store": str(folder / f"{name}.store"), "out": str(out)}
    command = [sys.executable, "-W", "ignore", __file__, "--rank"]
    ranks = [subprocess.Popen([*command, json.dumps(plan | {"rank": rank})]) for rank in range(num_ranks)]
    try:
        codes = [rank.wait(TIMEOUT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    if any(codes):
        raise RuntimeError(f"{name}: ranks ended with {codes}")
    lines: list[dict[str, Any]] = json.loads(out.read_text())
    return lines


def mfu(lines: list[dict[str, Any]], num_gpus: int) -> float:
    """Median over the steps after two of warm-up."""
    return statistics.median(line["flops"] / line["seconds"] for line in lines[2:]) / num_gpus / PEAK_FLOPS


def run(folder: Path, *, is_rehearsal: bool) -> None:
    shape, large = ("tiny", "tiny") if is_rehearsal else ("dense", "4B")
    plan: dict[str, Any] = {
        "is_rehearsal": is_rehearsal,
        "budget": 256 if is_rehearsal else 131_072,
        "capacity": 64 if is_rehearsal else 16_384,
        "mean": 20 if is_rehearsal else 2000,
        "recompute": 0.0,
        "num_steps": 4 if is_rehearsal else 20,
        "shape": shape,
        "model": str(write_model(SHAPES[shape], folder / "model", "cpu" if is_rehearsal else "cuda:0")),
    }
    one, two = run_ranks(1, dict(plan), folder), run_ranks(2, dict(plan), folder)
    apart = {
        name: max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-3) for a, b in zip(one, two, strict=True))
        for name in ("entropy", "grad_norm")
    }
    bars = {
        f"{name}, largest relative difference": Bar(value, 0.02, "ratio", is_upper=True)
        for name, value in apart.items()
    }
    bars["one GPU"] = Bar(mfu(one, 1), 0.0, "MFU")
    bars["shard 2: work over one GPU's"] = Bar(2 * mfu(two, 2) / mfu(one, 1), 1.8, "ratio")
    write_bars("learner-2", bars)
    plan |= {
        "shape": large,
        "num_steps": 5,
        "recompute": 0.5,
        "model": str(write_model(SHAPES[large], folder / "large", "cpu" if is_rehearsal else "cuda:0")),
    }
    bars["shard 2: dense 4B, rows of 16k (reported)"] = Bar(mfu(run_ranks(2, dict(plan), folder), 2), 0.0, "MFU")
    write_bars("learner-2", bars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        train(json.loads(arguments.rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), is_rehearsal=arguments.rehearse)


if __name__ == "__main__":
    main()

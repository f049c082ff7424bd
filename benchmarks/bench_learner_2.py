"""The learner on two GPUs: the losses of one, its speed over that of one, and a larger model; a call of 8 minutes.

    make bench-learner-2                                     two H100s or H200s of one host
    python benchmarks/bench_learner_2.py --trainer megatron  the other trainer, in a call of its own
    python benchmarks/bench_learner_2.py --rehearse          every line on a CPU, tiny models, figures without meaning

One process of one rank, then two of two (`shard=2`), train the same batches of Φ = 131,072 of a 1.7B shape. Bars: the
entropy and the gradient norm of 20 steps agree within what bfloat16 leaves of them; two GPUs do 1.8 times the work of
one. Then a 4B Qwen3 shape trains in rows of 16k on two. Megatron's ranks split rows (data 2), products (tensor 2) and
experts (expert 2); one rank of `hf` is what their losses are held against. A rank killed and one stopped are
`tests/integration/test_learner_ranks.py`, which runs on GPUs as it does on CPUs.
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
from learner_shapes import (
    DENSE,
    DENSE_4B,
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
from ring_async.core.rank_batches import batch_of_rank
from ring_async.testing.builders import make_config
from ring_async.training.base import TrainEngine
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.ranks import RankPlace, Ranks, join_ranks

SHAPES = {"dense": DENSE, "experts": EXPERTS, "4B": DENSE_4B, "tiny": TINY, "tiny experts": TINY_EXPERTS}
TIMEOUT_S = 300.0


def train(plan: dict[str, Any]) -> None:
    """One rank's process: train the plan's batches; rank 0 writes a line for each."""
    shape: Shape = SHAPES[plan["shape"]]
    num_ranks, budget, capacity = plan["num_ranks"], plan["budget"], plan["capacity"]
    device = "cpu" if plan["is_rehearsal"] else f"cuda:{plan['rank']}"
    ranks = join_ranks(RankPlace(plan["rank"], num_ranks, plan["store"], device))
    trainer = plan.get("trainer", "hf")
    options = {"attention": "varlen"}
    if trainer == "hf":
        options |= {"head": "chunked", "compile": "aot_eager"}
    layout = plan.get("parallel", {"shard": num_ranks})
    config = make_config(
        learner__engine=trainer,
        model__dtype="bfloat16",
        budget__token_budget=budget,
        learner__learning_rate=1e-6,
        learner__token_capacity=capacity,
        learner__rows_per_microbatch=1,
        learner__recompute=plan["recompute"],
        **{f"learner__parallel__{key}": value for key, value in layout.items()},
        learner__num_threads=1 if plan["is_rehearsal"] else 8,
        learner__engine_options=options if plan["is_rehearsal"] else {},
    )
    engine = make_engine(config, Path(plan["model"]), ranks)
    parallel = config.learner.parallel
    lines = []
    for seed in range(plan["num_steps"]):
        batch = make_batch(shape, budget, capacity, seed, mean=plan["mean"], num_ranks=2)
        own, share = batch, None
        if parallel.num_data_ranks > 1:
            own, share = batch_of_rank(batch, parallel.data_rank_of(ranks.rank))
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


def make_engine(config: Config, model: Path, ranks: Ranks) -> TrainEngine:
    """One rank of the trainer that a configuration names."""
    if config.learner.engine == "hf":
        return HfTrainEngine(config, model, ranks)
    from ring_async.training.megatron.engine import MegatronTrainEngine

    return MegatronTrainEngine(config, model, ranks)


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


def first_plan(folder: Path, shape: str, *, is_rehearsal: bool) -> dict[str, Any]:
    """What all runs on one shape share."""
    return {
        "is_rehearsal": is_rehearsal,
        "budget": 256 if is_rehearsal else 131_072,
        "capacity": 64 if is_rehearsal else 16_384,
        "mean": 20 if is_rehearsal else 2000,
        "recompute": 0.0,
        "num_steps": 4 if is_rehearsal else 20,
        "shape": shape,
        "model": str(write_model(SHAPES[shape], folder / shape, "cpu" if is_rehearsal else "cuda:0")),
    }


def apart(one: list[dict[str, Any]], two: list[dict[str, Any]], what: str = "") -> dict[str, Bar]:
    """How far the steps of two runs are apart."""
    return {
        f"{what}{name}, largest relative difference": Bar(
            max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-3) for a, b in zip(one, two, strict=False)),
            0.02,
            "ratio",
            is_upper=True,
        )
        for name in ("entropy", "grad_norm")
    }


def run_megatron(folder: Path, *, is_rehearsal: bool) -> None:
    """Layouts of Megatron's ranks against one rank of hf, on a dense shape and on one with experts."""
    names = ("tiny", "tiny experts") if is_rehearsal else ("dense", "experts")
    dense, experts = (first_plan(folder, name, is_rehearsal=is_rehearsal) for name in names)
    layouts = {
        "data 2": (dense, {"data": 2}),
        "tensor 2": (dense, {"tensor": 2}),
        "data 2, expert 2": (experts, {"data": 2, "expert": 2}),
    }
    split = {"trainer": "megatron", "recompute": 0.25}
    experts["num_steps"] = min(experts["num_steps"], 8)
    bars: dict[str, Bar] = {}
    of_one: dict[str, list[dict[str, Any]]] = {}
    for name, (plan, layout) in layouts.items():
        shape = plan["shape"]
        if shape not in of_one:
            of_one[shape] = run_ranks(1, dict(plan), folder)
            alone = run_ranks(
                1, plan | {"trainer": "megatron", "parallel": {}, "recompute": 0.25, "num_steps": 6}, folder
            )
            bars |= apart(of_one[shape], alone, f"{shape}, one rank: ")
            bars[f"{shape}, one rank"] = Bar(mfu(alone, 1), 0.0, "MFU")
        two = run_ranks(2, plan | split | {"parallel": layout}, folder)
        bars |= apart(of_one[shape], two, f"{name}: ")
        bar = 1.8 if name == "data 2" else 0.0
        bars[f"{name}: work over one GPU's"] = Bar(2 * mfu(two, 2) / bars[f"{shape}, one rank"].value, bar, "ratio")
        write_bars("learner-2-megatron", bars)


def run(folder: Path, *, is_rehearsal: bool) -> None:
    shape, large = ("tiny", "tiny") if is_rehearsal else ("dense", "4B")
    plan = first_plan(folder, shape, is_rehearsal=is_rehearsal)
    one, two = run_ranks(1, dict(plan), folder), run_ranks(2, dict(plan), folder)
    bars = apart(one, two)
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
    parser.add_argument("--trainer", choices=["hf", "megatron"], default="hf")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        train(json.loads(arguments.rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = {"hf": run, "megatron": run_megatron}
        runs[arguments.trainer](Path(folder), is_rehearsal=arguments.rehearse)


if __name__ == "__main__":
    main()

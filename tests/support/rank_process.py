"""One rank of a trainer as a process of its own: it trains, restores and saves as a test's plan says.

    python -m rank_process '{"rank": 0, "num_ranks": 2, "store": "…", "tasks": […], "out": "…"}'

A task is a model with a configuration, the folder to restore from, batches by their seed, and the folder to save into.
Rank 0 writes what it found into `out`: for each task the metrics of every batch (or why the run would end), the
log-probabilities of one batch where `logprobs` names its seed, and the published weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ring_async.batches import PackedBatch
from ring_async.config.schema import Config
from ring_async.core.rank_batches import batch_of_rank
from ring_async.errors import DivergedError, StorageError
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.base import TrainEngine
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.ranks import RankPlace, Ranks, join_ranks
from tiny_models import VOCABULARY

SUPPORT = Path(__file__).parent


def settings(num_ranks: int, **overrides: Any) -> dict[str, Any]:
    """Overrides of `make_config` for a learner of so many ranks."""
    return {
        "learner__learning_rate": 0.05,
        "learner__adam_eps": 0.1,
        "learner__max_grad_norm": 1.0,
        "learner__token_capacity": 48,
        "learner__rows_per_microbatch": 1,
        "learner__parallel__shard": num_ranks,
        "budget__token_budget": 66,
    } | overrides


def make_batch(seed: int, num_ranks: int) -> PackedBatch:
    """Groups of three with a shared prompt, 66 loss tokens, uneven rows, laid out for so many ranks."""
    random = np.random.default_rng(seed)
    specs: list[SequenceSpec] = []
    left = 66
    while left:
        prompt = random.integers(0, VOCABULARY, random.integers(2, 9)).tolist()
        for _ in range(3):
            length = int(random.integers(3, 14))
            loss = min(length, left)
            left -= loss
            specs += [
                SequenceSpec(
                    prompt_ids=prompt,
                    response_ids=random.integers(0, VOCABULARY, length).tolist(),
                    behavior_logprobs=random.uniform(-4.0, -1.0, length).tolist(),
                    advantage=float(random.normal()),
                    reward=float(random.integers(0, 2)),
                    interval=(0, loss),
                    staleness=random.integers(0, 3, length).tolist(),
                )
            ] * (loss > 0)
    return pack_sequences(specs, token_capacity=48, num_ranks=num_ranks)


def do_task(task: dict[str, Any], ranks: Ranks) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Restore, train, save; returns the metrics of each batch and the version that would be published."""
    config = make_config(**settings(ranks.num_ranks, **task.get("overrides", {})))
    parallel = config.learner.parallel
    engine = make_engine(config, Path(task["model"]), ranks)
    metrics: list[dict[str, Any]] = []
    if "restore" in task:
        try:
            engine.restore(Path(task["restore"]))
        except StorageError as error:
            metrics.append({"refused": str(error)})
    for seed in task.get("seeds", ()):
        batch = make_batch(seed, max(2, parallel.num_data_ranks))
        if "spoil" in task:
            batch.advantages[np.flatnonzero(batch.loss_mask.any(axis=1))[-1]] = task["spoil"]
        own, share = batch, None
        if parallel.num_data_ranks > 1:
            own, share = batch_of_rank(batch, parallel.data_rank_of(ranks.rank))
        try:
            metrics.append(engine.train_batch(own, share).metrics)
        except DivergedError as error:
            metrics.append({"diverged": str(error)})
    if "logprobs" in task:
        metrics.append({"logprobs": engine.logprobs(make_batch(task["logprobs"], 2)).tolist()})
    snapshot = engine.snapshot()
    published = {}
    if ranks.rank == 0:
        published = dict(snapshot.tensors())
    else:
        snapshot.serve()
    snapshot.close()
    if "save" in task:
        saved = engine.capture()
        if ranks.rank == 0:
            Path(task["save"]).mkdir(parents=True, exist_ok=True)
        ranks.barrier()
        saved.write(Path(task["save"]))
        ranks.barrier()
    engine.close()
    return metrics, published


def make_engine(config: Config, folder: Path, ranks: Ranks) -> TrainEngine:
    """One rank of the trainer that a configuration names."""
    if config.learner.engine == "hf":
        return HfTrainEngine(config, folder, ranks)
    from ring_async.training.megatron.engine import MegatronTrainEngine  # seconds, for these tasks alone

    return MegatronTrainEngine(config, folder, ranks)


def run_ranks(num_ranks: int, tasks: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """Run tasks on so many ranks; the published weights of task i are left in `folder/i.safetensors`."""
    folder.mkdir()
    plan = {"num_ranks": num_ranks, "tasks": tasks, "store": str(folder / "store"), "out": str(folder)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, json.dumps(plan | {"rank": rank})],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        errors = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * num_ranks, "\n".join(errors)[-4000:]
    found: list[list[dict[str, Any]]] = json.loads((folder / "metrics.json").read_text())
    return found


def main() -> None:
    plan = json.loads(sys.argv[1])
    ranks = join_ranks(RankPlace(plan["rank"], plan["num_ranks"], plan["store"], "cpu"))
    results = []
    for index, task in enumerate(plan["tasks"]):
        metrics, published = do_task(task, ranks)
        results.append(metrics)
        if ranks.rank == 0:
            save_file(published, Path(plan["out"]) / f"{index}.safetensors")
    if ranks.rank == 0:
        (Path(plan["out"]) / "metrics.json").write_text(json.dumps(results))
    ranks.leave()


if __name__ == "__main__":
    main()

"""Ling-lite on one GPU, through the hf trainer: a slice of the real model, replayed experts, prompts shared by a group.

    python benchmarks/bench_ling_lite.py                     one H100 or H200, about 6 minutes
    python benchmarks/bench_ling_lite.py --rehearse          every line on a CPU, a tiny model, figures without meaning

1. MFU of four of Ling-lite's 28 layers, with shared experts, embedding and normalised head (BailingMoE v1):
   Φ = 131,072, rows of 16k, lengths as in `bench_learner`.
2. The same step with `replay_routing`.
3. Seconds of a step in which K responses share each prompt, over those of the same lengths with a prompt for each:
   what computing a prompt once saves.

Figures are written after every case.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bars import Bar, write_bars
from learner_shapes import PEAK_FLOPS, Shape, lengths_of, make_batch
from ring_async.batches import BatchPlan, PackedBatch, PackedSequence, TokenInterval
from ring_async.core.packing import empty_batch, lay_out
from ring_async.models.bailing_moe import BailingMoeConfig, BailingMoeForCausalLM
from ring_async.testing.builders import make_config
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.training.routed_experts import COLUMN
from ring_async.types import PolicyVersion

SLICE = Shape("four layers of Ling-lite", 4, 2048, 16, 4, 128, 1408, 126_464, False, False, 64, 6)
TINY = Shape("tiny BailingMoE", 2, 64, 4, 2, 16, 32, 512, False, False, 8, 2)
NUM_SHARED = 2
WARM_UP, NUM_STEPS = 2, 4
GROUPS = ((256, 4000), (1024, 2000), (2048, 500))
"""Tokens of a prompt, and of the mean response: as in Ring-lite; a page of text; a document with short answers."""


class Bench:
    """The device, the sizes, and the figures so far."""

    def __init__(self, folder: Path, *, is_rehearsal: bool) -> None:
        self.is_rehearsal = is_rehearsal
        self.shape = TINY if is_rehearsal else SLICE
        self.budget, self.capacity, self.mean = (256, 64, 20) if is_rehearsal else (131_072, 16_384, 2000)
        self.group_size = 4 if is_rehearsal else 16
        self.device = "cpu" if is_rehearsal else "cuda"
        self.model = write_model(self.shape, folder, self.device)
        self.bars: dict[str, Bar] = {}

    def add(self, name: str, value: float, bar: float, unit: str, *, is_upper: bool = False) -> None:
        self.bars[name] = Bar(value, bar, unit, is_upper=is_upper)
        write_bars("ling_lite", self.bars)
        print(f"{name}: {value:.4g} {unit}", flush=True)

    def seconds(self, batches: list[PackedBatch], **options: Any) -> list[float]:
        """Seconds of a step on each batch, after warm-up steps on the first ones again."""
        gc.collect()
        torch._dynamo.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        forced = {"attention": "varlen", "head": "chunked", "compile": "aot_eager"} if self.is_rehearsal else {}
        config = make_config(
            model__dtype="bfloat16",
            budget__token_budget=self.budget,
            learner__token_capacity=self.capacity,
            learner__rows_per_microbatch=1,
            learner__recompute=0.5,
            learner__engine_options=forced | options,
            learner__num_threads=1 if self.is_rehearsal else 8,
        )
        engine = HfTrainEngine(config, self.model)
        found = []
        for batch in (*batches[:WARM_UP], *batches):
            began_s = time.perf_counter()
            engine.train_batch(batch)
            if self.device == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - began_s)
        if self.device == "cuda":
            print(f"  peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
        engine.close()
        return found[-len(batches) :]


def write_model(shape: Shape, folder: Path, device: str) -> Path:
    """Random weights of a BailingMoE of this shape; returns the folder."""
    torch.manual_seed(0)
    config = BailingMoeConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        moe_intermediate_size=shape.width,
        num_experts=shape.experts,
        num_experts_per_tok=shape.experts_per_token,
        num_shared_experts=NUM_SHARED,
        norm_head=True,
        pad_token_id=None,
        eos_token_id=None,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 600_000.0},
    )
    with torch.device(device):
        model = BailingMoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    del model
    return folder


def flops_of(shape: Shape, batch: PackedBatch) -> float:
    """Of forward and backward, shared experts counted (`Shape.flops`)."""
    tokens = lengths_of(batch)
    shared = 6.0 * sum(tokens) * shape.layers * 3 * shape.hidden * NUM_SHARED * shape.width
    return shape.flops(tokens, int(batch.loss_mask.sum())) + shared


def with_experts(batch: PackedBatch, shape: Shape) -> PackedBatch:
    """The batch with a random choice of distinct experts for each token of a response."""
    random = np.random.default_rng(0)
    layers = [
        random.random((batch.input_ids.size, shape.experts)).argpartition(shape.experts_per_token, axis=1)
        for _ in range(shape.layers)
    ]
    chosen = np.concatenate([layer[:, : shape.experts_per_token] for layer in layers], axis=1).astype(np.uint8)
    return dataclasses.replace(batch, columns={COLUMN: chosen.reshape(*batch.input_ids.shape, -1)})


def group_batch(bench: Bench, num_prompt: int, mean: int, seed: int, *, shares: bool) -> PackedBatch:
    """Groups of K responses until Φ; with `shares` off the prompts of a group differ in their first token."""
    random = np.random.default_rng(seed)
    longest = bench.capacity - num_prompt
    lengths: list[int] = []
    while (left := bench.budget - sum(lengths)) > 0:
        drawn = int(random.lognormal(np.log(mean) - 0.32, 0.8))
        lengths.append(min(left, max(1, min(longest, drawn))))
    layout = lay_out([num_prompt + length for length in lengths], bench.capacity, 1)
    sequences = tuple(
        PackedSequence(
            trajectory_id=f"t{i}", source="bench", row=layout.rows[i], offset=layout.offsets[i],
            num_prompt_tokens=num_prompt, num_response_tokens=length, interval=TokenInterval(f"t{i}", 0, length),
            reward=float(i % 2), advantage=1.0 - 2.0 * (i % 2), staleness=0,
        )
        for i, length in enumerate(lengths)
    )  # fmt: skip
    plan = BatchPlan(
        seed + 1, PolicyVersion(0, seed), bench.budget, layout.num_rows, bench.capacity, 1, sequences, 0, 0
    )
    batch = empty_batch(plan)
    prompts = random.integers(0, bench.shape.vocabulary, (len(lengths) // bench.group_size + 1, num_prompt))
    for i, sequence in enumerate(sequences):
        row, start = sequence.row, sequence.offset
        middle, end = start + num_prompt, start + num_prompt + lengths[i]
        batch.input_ids[row, start:middle] = prompts[i // bench.group_size]
        if not shares:
            batch.input_ids[row, start] = i % bench.shape.vocabulary
        batch.input_ids[row, middle:end] = random.integers(0, bench.shape.vocabulary, lengths[i])
        batch.position_ids[row, start:end] = np.arange(end - start)
        batch.sequence_ids[row, start:end] = i + 1
        batch.loss_mask[row, middle:end] = 1
        batch.behavior_logprobs[row, middle:end] = -np.log(bench.shape.vocabulary)
        batch.advantages[row, middle:end] = sequence.advantage
    return batch


def run(bench: Bench) -> None:
    """All cases."""
    num_steps = 1 if bench.is_rehearsal else NUM_STEPS
    batches = [
        make_batch(bench.shape, bench.budget, bench.capacity, seed, mean=bench.mean) for seed in range(num_steps)
    ]
    costs = [s / flops_of(bench.shape, batch) for s, batch in zip(bench.seconds(batches), batches, strict=True)]
    plain = statistics.median(costs)
    bench.add("MFU of the slice", 1 / (PEAK_FLOPS * plain), 0.35, "MFU")
    replayed = bench.seconds([with_experts(batch, bench.shape) for batch in batches], replay_routing=True)
    costs = [s / flops_of(bench.shape, batch) for s, batch in zip(replayed, batches, strict=True)]
    bench.add("replayed experts, over own", statistics.median(costs) / plain, 1.05, "ratio", is_upper=True)
    for num_prompt, mean in ((8, 16), (16, 8), (32, 8)) if bench.is_rehearsal else GROUPS:
        times = [
            statistics.median(
                bench.seconds([group_batch(bench, num_prompt, mean, seed, shares=shares) for seed in range(num_steps)])
            )
            for shares in (True, False)
        ]
        name = f"prompts of {num_prompt}, responses of {mean}, {bench.group_size} a group: shared over apart"
        bench.add(name, times[0] / times[1], 1.0, "ratio", is_upper=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the CPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Bench(Path(folder), is_rehearsal=arguments.rehearse))


if __name__ == "__main__":
    main()

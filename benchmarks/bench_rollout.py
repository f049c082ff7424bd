"""Rollouts on SGLang, one GPU: throughput against bare SGLang, swaps under load, exactness of versions.

    make bench-rollout                                        # SmolLM2-135M and a 1.7B shape
    python benchmarks/bench_rollout.py --models 135m --parts swap --sizes 64
    python benchmarks/bench_rollout.py --models smollm2 --parts gap --intervals 64 128 256      # where tokens go

throughput: the engine's generated tokens a second, every response through `generate`, streamed in steps, tags on; over
bare SGLang: HTTP without streaming, log-probabilities on, four client processes, same lengths, flags and requests, no
plugin. Both servers stand on the GPU from beginning to end and are measured in turns; the best of each counts. Every
slot runs two prompts one after the other; no prompt comes twice, so nothing is found in a cache.
mismatch: |Δ log-probability| between the engine and the learner's forward (transformers) at equal weights.
swap: `swap_weights` under that load for each `on_update`: pause, and |Δ log-probability| of every token against a fresh
computation under the version it claims (`ring_async.testing.recompute`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bars import Bar, write_bars
from plugin_site import make_plugin_found
from ring_async.engines.base import GenerationAborted, GenerationRequest
from ring_async.engines.sglang.engine import SglangEngine
from ring_async.engines.sglang.server import ServerOptions, SglangServer
from ring_async.testing.recompute import Judge, check_exactness
from ring_async.types import Generation, PolicyVersion, SamplingParams
from rollout_clients import Slots, bare_tokens_per_s, slots_of
from rollout_gap import Rate, measure_gap
from rollout_models import SHAPES, load_model, version_of, write_shape, write_smollm2

PROMPT_TOKENS = 128
PARTS = ("throughput", "mismatch", "swap")
GAP = "gap"
"""A part by itself (`rollout_gap`): it stands its servers up one after the other."""
MODES = ("keep", "reprefill", "abort")
MOST_REQUESTS = {"1.7b": 128}
"""More do not fit: two servers with their caches, and the versions that are judged, on 80 GB."""
PAUSE_BARS_S = {"135m": 0.025, "smollm2": 0.025, "1.7b": 0.060}
HOPPER_ARGS = {
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_prefill_cuda_graph": True,
}
_SEEDS = itertools.count()


class Report:
    """Figures as they come: printed and written at once, so that a run that breaks off has said what it knows."""

    def __init__(self, out: Path | None) -> None:
        self.figures: dict[str, Any] = {}
        self._out = out

    def say(self, key: str, figures: Any) -> None:
        self.figures[key] = figures
        print(f"[{time.strftime('%H:%M:%S')}] {key}: {json.dumps(figures)}", flush=True)
        if self._out is not None:
            self._out.write_text(json.dumps(self.figures, indent=1))


def server_args(options: argparse.Namespace) -> dict[str, Any]:
    sizes = options.sizes
    return {
        **HOPPER_ARGS,
        "cuda_graph_bs_decode": sorted({1, 2, 4, 8, 16, 32, 64, 96, *sizes, *(size * 3 // 4 for size in sizes)}),
        "mem_fraction_static": options.mem_fraction,
        "max_total_tokens": int(1.25 * max(sizes) * (PROMPT_TOKENS + options.num_tokens)),
        **json.loads(options.server_args),
    }


def make_engine(folder: Path, options: argparse.Namespace) -> SglangEngine:
    return SglangEngine(
        "bench",
        folder,
        max_running_requests=max(options.sizes),
        is_adaptive=False,
        ignore_stops=True,
        server_args=server_args(options),
        log_dir=options.log_dir,
    )


def make_flags(folder: Path, options: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        folder,
        "bfloat16",
        is_dummy=not list(folder.glob("*.safetensors")),
        max_running_requests=max(options.sizes),
        extra=server_args(options),
    )


def make_bare(folder: Path, options: argparse.Namespace) -> SglangServer:
    return SglangServer("bare", replace(make_flags(folder, options), tags_steps=False), options.log_dir)


@contextlib.asynccontextmanager
async def both(
    folder: Path, options: argparse.Namespace, report: Report
) -> AsyncIterator[tuple[SglangServer | None, SglangEngine]]:
    """Bare server (where throughput is measured) and engine, started at the same time."""
    bare = make_bare(folder, options) if "throughput" in options.parts else None
    engine = make_engine(folder, options)
    began_s = time.perf_counter()
    try:
        await asyncio.gather(engine.start(), *([bare.start(500.0)] if bare else []))
        report.say("start_s", round(time.perf_counter() - began_s, 1))
        yield bare, engine
    finally:
        await engine.close()
        if bare:
            await bare.close()


def fresh_slots(size: int, rounds: int, kind: str) -> Slots:
    vocabulary = SHAPES["135m" if kind == "smollm2" else kind]["vocab_size"]
    return slots_of(size, rounds, PROMPT_TOKENS, vocabulary, seed=next(_SEEDS))


def request_of(name: str, prompt: list[int], num_tokens: int) -> GenerationRequest:
    return GenerationRequest(name, np.array(prompt, np.int32), SamplingParams(1.0, num_tokens), seed=0)


async def engine_tokens_per_s(engine: SglangEngine, slots: Slots, num_tokens: int) -> float:
    async def slot(index: int, own: list[list[int]]) -> int:
        count = 0
        for number, prompt in enumerate(own):
            generation = await engine.generate(request_of(f"{index}/{number}", prompt, num_tokens))
            count += generation.response_ids.size
        return count

    began_s = time.perf_counter()
    total = sum(await asyncio.gather(*(slot(index, own) for index, own in enumerate(slots))))
    return total / (time.perf_counter() - began_s)


async def measure_throughput(
    kind: str, bare: SglangServer, engine: SglangEngine, options: argparse.Namespace, report: Report
) -> None:
    life = engine._keeper.life
    assert life.server is not None

    async def bare_rate(server: SglangServer, size: int, rounds: int, num_tokens: int) -> int:
        address = server.address
        slots = fresh_slots(size, rounds, kind)
        return round(await asyncio.to_thread(bare_tokens_per_s, address.url, address.api_key, slots, num_tokens))

    async def engine_rate(interval: int, size: int, rounds: int, num_tokens: int) -> int:
        engine._stream_interval = interval
        return round(await engine_tokens_per_s(engine, fresh_slots(size, rounds, kind), num_tokens))

    for size in options.sizes:
        await bare_rate(bare, size, 1, 48)
        await engine_rate(options.intervals[0], size, 1, 48)
        rates: dict[str, list[int]] = {}
        for repeat in range(options.repeats):
            measured = {"bare": await bare_rate(bare, size, options.rounds, options.num_tokens)}
            for interval in options.intervals:
                name = f"engine, steps of {interval}"
                measured[name] = await engine_rate(interval, size, options.rounds, options.num_tokens)
            if options.bare_clients and repeat == 0:
                measured["bare clients, engine's server"] = await bare_rate(
                    life.server, size, options.rounds, options.num_tokens
                )
            for name, rate in measured.items():
                rates.setdefault(name, []).append(rate)
        report.say(f"{kind} tokens_per_s at {size}", rates)


async def measure_where(kind: str, folder: Path, options: argparse.Namespace, report: Report) -> None:
    """The part `gap`: what each thing that stands between bare SGLang and the engine costs."""

    def rate_of(server: SglangServer) -> Rate:
        async def rate(size: int) -> int:
            url, key = server.address.url, server.address.api_key
            slots = fresh_slots(size, options.rounds, kind)
            return round(await asyncio.to_thread(bare_tokens_per_s, url, key, slots, options.num_tokens))

        return rate

    def engine_rate(engine: SglangEngine, interval: int) -> Rate:
        async def rate(size: int) -> int:
            engine._stream_interval = interval
            slots = fresh_slots(size, options.rounds, kind)
            return round(await engine_tokens_per_s(engine, slots, options.num_tokens))

        return rate

    @contextlib.asynccontextmanager
    async def connect(server: SglangServer) -> AsyncIterator[SglangEngine]:
        address = {"address": server.address.url, "api_key": server.address.api_key}
        engine = SglangEngine(
            "bench",
            folder,
            max_running_requests=max(options.sizes),
            is_adaptive=False,
            ignore_stops=True,
            device=options.device,
            **address,
        )
        await engine.start()
        try:
            version, tensors = Versions(load_model(folder, options.device)).make(0)
            await engine.swap_weights(version, tensors, "reprefill")
            yield engine
        finally:
            await engine.close()

    await measure_gap(
        kind, make_flags(folder, options), options.sizes, report.say,
        rate_of=rate_of, connect=connect, engine_rate=engine_rate, intervals=options.intervals,
    )  # fmt: skip


class Versions:
    """Weights by version, made when asked for."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.made: dict[PolicyVersion, dict[str, torch.Tensor]] = {}

    def make(self, number: int) -> tuple[PolicyVersion, dict[str, torch.Tensor]]:
        version = PolicyVersion(0, number)
        self.made[version] = version_of(self._model, number)
        return version, self.made[version]

    def forget_before(self, number: int) -> None:
        for version in [one for one in self.made if one.number < number]:
            del self.made[version]


async def measure_mismatch(
    kind: str, engine: SglangEngine, judge: Judge, options: argparse.Namespace, report: Report
) -> None:
    requests = [
        request_of(f"mismatch/{index}", prompt, options.num_tokens)
        for index, (prompt,) in enumerate(fresh_slots(options.num_checked, 1, kind))
    ]
    generations = await asyncio.gather(*(engine.generate(request) for request in requests))
    row = check_exactness(judge, list(zip(requests, generations, strict=True))).row()
    report.say(f"{kind} mismatch", {key: value for key, value in row.items() if key.startswith(("tokens", "claimed"))})


async def measure_swaps(
    kind: str, engine: SglangEngine, versions: Versions, judge: Judge, options: argparse.Namespace, report: Report
) -> None:
    number = 0
    for size, mode in itertools.product(options.sizes, MODES):
        requests = [
            request_of(f"{mode}/{size}/{index}", prompt, options.num_tokens)
            for index, (prompt,) in enumerate(fresh_slots(size, 1, kind))
        ]
        tasks = [asyncio.create_task(finish(engine, request)) for request in requests]
        pauses, in_flight = [], []
        for _ in range(2):
            goal = engine.load().generated_tokens + int(0.3 * size * options.num_tokens)
            while engine.load().generated_tokens < goal and not all(task.done() for task in tasks):
                await asyncio.sleep(0.005)
            number += 1
            version, tensors = versions.make(number)
            swap = await engine.swap_weights(version, tensors, mode)
            pauses.append(round(swap.pause_s, 4))
            in_flight.append(swap.num_in_flight)
        generations = await asyncio.gather(*tasks)
        chosen = list(zip(requests, generations, strict=True))[: options.num_checked]
        figures = {"pause_s": pauses, "in_flight": in_flight, **check_exactness(judge, chosen).row()}
        report.say(f"{kind} swap {mode} at {size}", figures)
        versions.forget_before(number)


async def finish(engine: SglangEngine, request: GenerationRequest) -> Generation:
    """As a rollout does: an aborted response is taken up again with what there is of it."""
    prefix: Generation | None = None
    while True:
        try:
            return await engine.generate(
                GenerationRequest(request.request_id, request.prompt_ids, request.sampling, request.seed, prefix)
            )
        except GenerationAborted as aborted:
            prefix = aborted.partial


async def measure(kind: str, root: Path, options: argparse.Namespace, report: Report) -> None:
    sizes = [size for size in options.sizes if size <= MOST_REQUESTS.get(kind, size)]
    options = argparse.Namespace(**{**vars(options), "sizes": sizes})
    folder = root / kind
    await asyncio.to_thread(write_smollm2, folder) if kind == "smollm2" else write_shape(kind, folder)
    if GAP in options.parts:
        await measure_where(kind, folder, options, report)
    if options.parts == [GAP]:
        return
    async with both(folder, options, report) as (bare, engine):
        model = load_model(folder, "cuda")
        versions = Versions(model)
        version, tensors = versions.make(0)
        await engine.swap_weights(version, tensors, "reprefill")
        if bare is not None:
            await measure_throughput(kind, bare, engine, options, report)
        engine._stream_interval = options.intervals[0]
        if "mismatch" in options.parts or "swap" in options.parts:
            judge = Judge(load_model(folder, "cuda"), versions.made)
        if "mismatch" in options.parts:
            await measure_mismatch(kind, engine, judge, options, report)
        if "swap" in options.parts:
            await measure_swaps(kind, engine, versions, judge, options, report)


def bars_of(report: Report, options: argparse.Namespace) -> Iterator[tuple[str, Bar]]:
    for kind, size in itertools.product(options.models, options.sizes):
        if rates := report.figures.get(f"{kind} tokens_per_s at {size}"):
            bare = max(rates["bare"])
            ours = max(rates[f"engine, steps of {options.intervals[0]}"])
            yield f"{kind} at {size}: engine over bare", Bar(ours / bare, 0.97, "ratio")
            yield f"{kind} at {size}: engine", Bar(ours, 0.97 * bare, "tokens/s")
        for mode in MODES:
            if swap := report.figures.get(f"{kind} swap {mode} at {size}"):
                yield (
                    f"{kind} at {size}: longest pause, {mode}",
                    Bar(max(swap["pause_s"]), PAUSE_BARS_S[kind], "s", True),
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "1.7b"], choices=list(PAUSE_BARS_S))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=(*PARTS, GAP))
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 512], help="requests at once")
    parser.add_argument("--num-tokens", type=int, default=512, help="of each response")
    parser.add_argument("--rounds", type=int, default=2, help="prompts a slot runs one after the other")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--num-checked", type=int, default=32, help="responses of each swap computed again")
    parser.add_argument("--intervals", nargs="+", type=int, default=[128], help="tokens a response streams at a time")
    parser.add_argument("--bare-clients", action="store_true", help="also bare clients against the engine's own server")
    parser.add_argument(
        "--mem-fraction", type=float, default=0.85, help="of the GPU; what the two servers need is less"
    )
    parser.add_argument("--server-args", default="{}", help="further flags of the servers, as JSON")
    parser.add_argument("--log-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="figures as they come")
    options = parser.parse_args()
    options.device = "cuda"
    report = Report(options.out)
    with tempfile.TemporaryDirectory() as root:
        make_plugin_found(Path(root) / "site")
        for kind in options.models:
            asyncio.run(measure(kind, Path(root), options, report))
    write_bars("rollout", dict(bars_of(report, options)))


if __name__ == "__main__":
    main()

"""The engine contract over the embedded engine, the scripted one, and SGLang's protocol without SGLang."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine_contract import *  # noqa: F403 - the tests of the contract
from engine_contract import V1, Bench, Benches
from ring_async.engines.embedded.engine import EmbeddedEngine
from ring_async.engines.sglang.engine import SglangEngine
from ring_async.models import resolve_model_path
from ring_async.testing.fake_sglang import FakeSglang
from ring_async.testing.scripted_engine import ScriptedEngine, ScriptedResponse

TINY = resolve_model_path("builtin:tiny")


@asynccontextmanager
async def embedded(_: Path) -> Benches:
    start = load_file(TINY / "model.safetensors")
    engine = EmbeddedEngine("embedded", TINY, policy_version=V1)
    await engine.start()
    engine._batcher._stops[:] = False
    try:
        yield Bench(
            engine,
            weights=lambda number: {name: tensor * (1 + 0.01 * number) for name, tensor in start.items()},
            prompt=lambda number: [5, 6, 7 + number],
        )
    finally:
        await engine.close()


@asynccontextmanager
async def scripted(_: Path) -> Benches:
    def respond(request):
        length = request.sampling.max_tokens
        return ScriptedResponse(np.arange(1, length + 1, dtype=np.int32), "length")

    engine = ScriptedEngine("scripted", script=respond, token_s=0.001, policy_version=V1)
    await engine.start()
    try:
        yield Bench(engine, weights=lambda _number: {}, prompt=lambda number: [5, 6, 7 + number])
    finally:
        await engine.close()


def sglang(version: str, *, has_tags: bool):
    @asynccontextmanager
    async def make(folder: Path) -> Benches:
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "eos_token_id": 2}))
        async with FakeSglang(version, has_tags=has_tags, step_s=0.001) as server:
            engine = SglangEngine(
                "sglang", folder, device="cpu", address=server.url, stream_interval=4, ignore_stops=True
            )
            await engine.start()
            try:
                await engine.swap_weights(V1, {"version": torch.tensor([1.0])}, "reprefill")
                yield Bench(
                    engine,
                    weights=lambda number: {"version": torch.tensor([float(number)])},
                    prompt=lambda number: [900, 7 + number],
                )
                assert not server.problems
            finally:
                await engine.close()

    return make


BENCHES = {
    "embedded": embedded,
    "scripted": scripted,
    "sglang 0.5.17": sglang("0.5.17", has_tags=True),
    "sglang 0.5.23": sglang("0.5.23", has_tags=True),
    "sglang without tags": sglang("0.5.17", has_tags=False),
}


@pytest.fixture(params=list(BENCHES))
def make_bench(request: pytest.FixtureRequest, tmp_path: Path):
    """`make_bench()`: a running engine of one kind."""
    callspec = getattr(request.node, "callspec", None)
    if request.param == "sglang without tags" and callspec and callspec.params.get("on_update") == "keep":
        pytest.skip("keep is refused where steps are not tagged: test_sglang_engine.py")
    return lambda: BENCHES[request.param](tmp_path)

"""SGLang itself on one GPU: the engine contract, exact weights, a server killed under load.

Run with SGLang and ring-async installed in one environment; `make bench-rollout` measures throughput, swaps and the
exactness of versions. Servers start with random weights of SmolLM2-135M's shape.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import torch

from engine_contract import *  # noqa: F403 - the tests of the contract
from engine_contract import V1, V2, Bench, Benches
from ring_async.engines.sglang.engine import SglangEngine
from ring_async.engines.sglang.server import ServerOptions, SglangServer
from ring_async.errors import WeightsError
from ring_async.types import PolicyVersion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="needs SGLang"),
    pytest.mark.may_leak(reason="CUDA keeps threads and descriptors for the life of the process"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
ARGS = {
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_prefill_cuda_graph": True,
    "cuda_graph_bs_decode": [1, 2, 4, 8, 16, 32, 64],
    "max_total_tokens": 65536,
}
OPTIONS = {"max_running_requests": 64, "stream_interval": 4, "ignore_stops": True, "server_args": ARGS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(SHAPE))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def weights_of(model: torch.nn.Module, number: int) -> dict[str, torch.Tensor]:
    return {name: (tensor * (1 + 0.1 * number)).detach() for name, tensor in model.named_parameters()}


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SglangServer]:
    options = ServerOptions(folder, "bfloat16", is_dummy=True, max_running_requests=64, stream_interval=4, extra=ARGS)
    server = SglangServer("contract", options, tmp_path_factory.mktemp("log"))
    asyncio.run(server.start(300.0))
    yield server
    asyncio.run(server.close())


@pytest.fixture
def make_bench(server: SglangServer, folder: Path, model: torch.nn.Module):
    """`make_bench()`: an engine on the module's server."""

    @asynccontextmanager
    async def make() -> Benches:
        address = {"address": server.address.url, "api_key": server.address.api_key}
        engine = SglangEngine("contract", folder, **OPTIONS, **address)
        await engine.start()
        try:
            await engine.swap_weights(V1, weights_of(model, 1), "reprefill")
            yield Bench(
                engine,
                weights=lambda number: weights_of(model, number),
                prompt=lambda number: list(range(100 + number, 164 + number)),
            )
        finally:
            await engine.close()

    return make


async def checksums(engine: SglangEngine) -> dict[str, str]:
    return await engine._keeper.life._checksums()


def test_weights_through_ipc_are_those_a_server_reads_from_disk(model: torch.nn.Module, tmp_path: Path) -> None:
    disk = tmp_path / "saved"
    model.save_pretrained(disk)

    async def scenario() -> tuple[dict[str, str], dict[str, str]]:
        sums = []
        for version in (None, V1):
            engine = SglangEngine("disk", disk, policy_version=version, log_dir=tmp_path, **OPTIONS)
            await engine.start()
            try:
                if version is None:
                    with pytest.raises(WeightsError, match="missing"):
                        await engine.swap_weights(V1, {"unknown": torch.zeros(1)}, "reprefill")
                    await engine.swap_weights(V1, weights_of(model, 0), "reprefill")
                sums.append(await checksums(engine))
            finally:
                await engine.close()
        return sums[0], sums[1]

    through_ipc, from_disk = asyncio.run(scenario())
    assert through_ipc == from_disk
    assert len(through_ipc) > 100


def test_a_server_killed_under_load_comes_back_and_responses_keep_their_first_tokens(
    folder: Path, model: torch.nn.Module, tmp_path: Path
) -> None:
    async def scenario() -> None:
        engine = SglangEngine("killed", folder, log_dir=tmp_path, **OPTIONS)
        await engine.start()
        try:
            await engine.swap_weights(V2, weights_of(model, 2), "reprefill")
            bench = Bench(engine, lambda _: {}, lambda number: list(range(100 + number, 164 + number)))
            tasks = [asyncio.create_task(engine.generate(bench.request(number, 2000))) for number in range(16)]
            await bench.until_tokens(16 * 100)
            first = {leg.request_id: list(leg.ids) for leg in engine._legs}
            life = engine._keeper.life
            assert life.server is not None
            assert life.server.pid is not None
            children = psutil.Process(life.server.pid).children(recursive=True)
            os.kill(life.server.pid, signal.SIGKILL)
            async with asyncio.timeout(300):
                generations = await asyncio.gather(*tasks)
            assert not psutil.wait_procs(children, timeout=10)[1]
            for generation in generations:
                assert generation.response_ids.size == 2000
                assert {segment.policy_version for segment in generation.segments} == {V2}
            starts = [generation.response_ids.tolist() for generation in generations]
            assert all(any(whole[: len(ids)] == ids for whole in starts) for ids in first.values())
            await engine.swap_weights(PolicyVersion(0, 3), weights_of(model, 3), "keep")
        finally:
            await engine.close()

    asyncio.run(scenario())

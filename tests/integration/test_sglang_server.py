"""A server's process: its flags, its last words, its restarts, and its end with its actor, however that goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang import server as server_module
from ring_async.engines.sglang.engine import SglangEngine
from ring_async.engines.sglang.server import ServerOptions, SglangServer
from ring_async.errors import ActorFailedError
from ring_async.testing.fake_sglang import END, truth
from ring_async.types import PolicyVersion, SamplingParams

STAND_IN = textwrap.dedent(
    """
    import asyncio, os, subprocess, sys, threading
    from ring_async.engines.sglang.launch import API_KEY, _die_with_actor
    from ring_async.testing.fake_sglang import FakeSglang

    threading.Thread(target=_die_with_actor, daemon=True).start()
    child = subprocess.Popen(["sleep", "600"])
    print("child", child.pid, "key", len(os.environ[API_KEY]), flush=True)
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))

    async def main():
        async with FakeSglang(port=int(sys.argv[sys.argv.index("--port") + 1])) as server:
            await asyncio.sleep(600)

    asyncio.run(main())
    """
)
BROKEN = "import sys; print('no kernel image is available'); sys.exit(3)"


def options(folder: Path) -> ServerOptions:
    return ServerOptions(folder, "bfloat16", is_dummy=True, extra={"attention_backend": "triton", "sizes": [1, 2]})


def write_model(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "eos_token_id": END}))
    return folder


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def until_gone(pid: int) -> None:
    give_up_s = time.monotonic() + 10
    while not is_gone(pid):
        assert time.monotonic() < give_up_s, f"process {pid} lives on"
        time.sleep(0.02)


def test_flags_are_named_as_the_server_names_them(tmp_path: Path) -> None:
    flags = options(tmp_path).flags(30000)
    assert flags[flags.index("--load-format") + 1] == "dummy"
    assert flags[flags.index("--attention-backend") + 1] == "triton"
    assert flags[flags.index("--sizes") + 1 :][:2] == ["1", "2"]
    assert "--skip-tokenizer-init" in flags
    assert "--enable-deterministic-inference" not in flags
    assert "--api-key" not in flags


def test_a_server_that_does_not_start_says_why_in_its_own_words(tmp_path: Path) -> None:
    server = SglangServer("broken", options(tmp_path), tmp_path, command=[sys.executable, "-c", BROKEN])
    with pytest.raises(ActorFailedError, match=r"ended with 3; its last words .*\n.*no kernel image is available"):
        asyncio.run(server.start(30))


def test_a_server_and_its_children_end_when_it_is_closed(tmp_path: Path) -> None:
    server = SglangServer("closed", options(tmp_path), tmp_path, command=[sys.executable, "-c", STAND_IN])

    async def scenario() -> list[psutil.Process]:
        await server.start(60)
        assert server.info["version"] == "0.5.17"
        assert server.pid is not None
        children = psutil.Process(server.pid).children()
        assert children
        await server.close()
        await server.close()
        return children

    for child in asyncio.run(scenario()):
        until_gone(child.pid)
    assert "key 43" in server.tail()


def test_a_server_and_its_children_end_when_its_actor_is_killed(tmp_path: Path) -> None:
    actor = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from ring_async.engines.sglang.server import ServerOptions, SglangServer

        async def main():
            flags = ServerOptions(Path({str(tmp_path)!r}), "bfloat16", is_dummy=True)
            command = [sys.executable, "-c", {STAND_IN!r}]
            server = SglangServer("orphan", flags, Path({str(tmp_path)!r}), command=command)
            await server.start(60)
            print(server.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", actor], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        children = psutil.Process(pid).children()
        process.kill()
    until_gone(pid)
    for child in children:
        until_gone(child.pid)


def test_a_killed_server_starts_again_with_its_weights_and_responses_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LAUNCHER", [sys.executable, "-c", STAND_IN])

    async def scenario() -> None:
        engine = SglangEngine("killed", write_model(tmp_path), device="cpu", stream_interval=8, log_dir=tmp_path)
        await engine.start()
        try:
            await engine.swap_weights(PolicyVersion(0, 4), {"version": torch.tensor([4.0])}, "reprefill")
            request = GenerationRequest("r", np.array([200, 1], np.int32), SamplingParams(1.0, 400), 0)
            task = asyncio.create_task(engine.generate(request))
            while engine.load().generated_tokens < 40:
                await asyncio.sleep(0.002)
            (leg,) = engine._legs
            life = engine._keeper.life
            assert life.server is not None
            assert life.server.pid is not None
            os.kill(life.server.pid, signal.SIGKILL)
            async with asyncio.timeout(60):
                generation = await task
            assert generation.response_ids.size == 200
            assert generation.response_ids[: len(leg.ids)].tolist() == leg.ids
            assert {truth(float(value)) for value in generation.behavior_logprobs} == {(4, 4)}
            assert engine.load().generated_tokens >= 200
        finally:
            await engine.close()

    asyncio.run(scenario())

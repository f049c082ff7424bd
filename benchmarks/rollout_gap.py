"""Where the engine's tokens go: what tags, a second process on the GPU, and streaming each cost bare SGLang.

    bare server, alone ─▶ idle process beside it ─▶ tagging server, alone ─▶ the actor beside it ─▶ the engine, in steps

Owns: the order of the measurements; each differs from the one before it in one thing. Servers stand on the GPU one at a
time, and are asked by the same client processes for whole answers; only the engine streams. The second row of a size
says how much two measurements of the same differ.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

from ring_async.engines.sglang.engine import SglangEngine
from ring_async.engines.sglang.server import ServerOptions, SglangServer

Rate = Callable[[int], Awaitable[int]]
"""Tokens/s at a number of requests."""

_IDLE = "import sys, torch; held = torch.zeros(1 << 28, device='cuda'); print('up', flush=True); sys.stdin.read()"


@contextlib.contextmanager
def idle_process() -> Iterator[None]:
    """A process that holds a CUDA context and memory on the GPU, and does nothing."""
    process = subprocess.Popen([sys.executable, "-c", _IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@contextlib.asynccontextmanager
async def running(server: SglangServer, say: Callable[[str, object], None], name: str) -> AsyncIterator[SglangServer]:
    began_s = time.perf_counter()
    await server.start(500.0)
    say(f"start of the {name}, s", round(time.perf_counter() - began_s, 1))
    try:
        yield server
    finally:
        await server.close()


async def measure_gap(
    kind: str,
    flags: ServerOptions,
    sizes: list[int],
    say: Callable[[str, object], None],
    *,
    rate_of: Callable[[SglangServer], Rate],
    connect: Callable[[SglangServer], contextlib.AbstractAsyncContextManager[SglangEngine]],
    engine_rate: Callable[[SglangEngine, int], Rate],
    intervals: list[int],
) -> None:
    """Say a row of tokens/s for each size.

    Args:
        kind: of the model, for the rows' names.
        flags: of both servers, but for the tags.
        sizes: requests at once.
        say: takes a figure.
        rate_of: bare clients at a server.
        connect: the engine at a server, its weights in force.
        engine_rate: the engine, at a stream interval.
        intervals: tokens a response streams at a time.
    """
    rates: dict[int, dict[str, list[int]]] = {size: {} for size in sizes}

    async def row(name: str, rate: Rate, repeats: int = 2) -> None:
        for size in sizes:
            rates[size][name] = [await rate(size) for _ in range(repeats)]
            say(f"{kind} gap at {size}", rates[size])

    async with running(SglangServer("bare", replace(flags, tags_steps=False)), say, "bare server") as bare:
        await row("first, not counted", rate_of(bare), 1)
        await row("bare server, alone", rate_of(bare))
        with idle_process():
            await row("bare server, an idle process beside it", rate_of(bare))
    async with running(SglangServer("tagging", flags), say, "tagging server") as tagging:
        await row("first on the tagging server, not counted", rate_of(tagging), 1)
        await row("tagging server, alone", rate_of(tagging))
        async with connect(tagging) as engine:
            await row("tagging server, the actor beside it", rate_of(tagging))
            for interval in intervals:
                await row(f"engine, steps of {interval}", engine_rate(engine, interval))

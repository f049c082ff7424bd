"""What every rollout engine promises, as tests that take a `bench`: an engine that is running, and how to ask of it.

Run by `test_engine_contract.py` (embedded, scripted, SGLang's protocol without SGLang) and by
`tests/gpu/test_sglang_engine.py` (SGLang itself).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ring_async.core.replay.partials import PartialResponse, join_pieces
from ring_async.engines.base import GenerationAborted, GenerationRequest
from ring_async.errors import ActorFailedError
from ring_async.types import Generation, PolicyVersion, SamplingParams

V1, V2 = PolicyVersion(0, 1), PolicyVersion(0, 2)
LONG = 120
"""Tokens of a response that is still under way when a test has acted on it."""
FEW = 12


@dataclass(frozen=True)
class Bench:
    """An engine with version 1 in force that never ends a response before its `max_tokens`."""

    engine: Any
    weights: Callable[[int], Mapping[str, Any]]
    prompt: Callable[[int], list[int]]

    def request(self, number: int, max_tokens: int = LONG, prefix: Generation | None = None) -> GenerationRequest:
        prompt_ids = np.array(self.prompt(number), np.int32)
        return GenerationRequest(f"r{number}", prompt_ids, SamplingParams(1.0, max_tokens), seed=number, prefix=prefix)

    async def until_tokens(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.engine.load().generated_tokens < count:
                await asyncio.sleep(0.001)


MakeBench = Callable[[], AbstractAsyncContextManager[Bench]]


def check_whole(generation: Generation, length: int) -> None:
    assert generation.response_ids.dtype == np.int32
    assert generation.behavior_logprobs.dtype == np.float32
    assert generation.response_ids.size == generation.behavior_logprobs.size == length
    assert (generation.behavior_logprobs <= 0).all()
    position = 0
    for segment in generation.segments:
        assert segment.start == position < segment.end
        position = segment.end
    assert position == length


def run(make_bench: MakeBench, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with make_bench() as bench:
            await scenario(bench)

    asyncio.run(main())


def test_a_response_is_whole_and_carries_its_version(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        generations = await asyncio.gather(*(bench.engine.generate(bench.request(i, FEW + i)) for i in range(6)))
        for index, generation in enumerate(generations):
            check_whole(generation, FEW + index)
            assert generation.finish_reason == "length"
            assert {segment.policy_version for segment in generation.segments} == {V1}
        load = bench.engine.load()
        assert (load.num_running, load.num_waiting) == (0, 0)
        assert load.generated_tokens >= sum(FEW + index for index in range(6))
        assert load.busy_s > 0

    run(make_bench, scenario)


def test_an_aborted_response_goes_on_from_its_first_tokens(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        task = asyncio.create_task(bench.engine.generate(bench.request(1)))
        await bench.until_tokens(10)
        await bench.engine.abort(("r1",))
        with pytest.raises(GenerationAborted) as aborted:
            await task
        partial = aborted.value.partial
        assert partial is not None
        size = partial.response_ids.size
        assert 10 <= size < LONG
        check_whole(partial, size)
        whole = await bench.engine.generate(bench.request(1, prefix=partial))
        check_whole(whole, LONG)
        assert whole.response_ids[:size].tolist() == partial.response_ids.tolist()
        assert whole.behavior_logprobs[:size].tolist() == partial.behavior_logprobs.tolist()

    run(make_bench, scenario)


@pytest.mark.parametrize("on_update", ["keep", "reprefill"])
def test_pieces_of_a_response_under_way_join_to_its_first_tokens(make_bench: MakeBench, on_update: str) -> None:
    async def scenario(bench: Bench) -> None:
        tasks = [asyncio.create_task(bench.engine.generate(bench.request(number))) for number in range(3)]
        held: dict[str, list[PartialResponse]] = {"r0": [], "r1": []}

        async def hand_over() -> None:
            since = {name: pieces[-1].header.end if pieces else 0 for name, pieces in held.items()}
            for piece in await bench.engine.sampled(since | {"stranger": 0}):
                piece.check()
                assert piece.header.start == since[piece.header.trajectory_id]
                held[piece.header.trajectory_id].append(piece)

        for number in range(1, 5):
            await bench.until_tokens(3 * 10 * number)
            await hand_over()
            if number == 2:
                await bench.engine.swap_weights(V2, bench.weights(2), on_update)
        for name, generation in zip(("r0", "r1"), await asyncio.gather(*tasks), strict=False):
            joined = join_pieces(held[name])
            size = joined.header.num_tokens
            assert size >= 10
            assert joined.response_ids.tolist() == generation.response_ids[:size].tolist()
            assert joined.behavior_logprobs.tolist() == generation.behavior_logprobs[:size].tolist()
            own = [one.policy_version for one in joined.header.segments]
            assert own == [one.policy_version for one in generation.segments][: len(own)]
            for column, array in joined.columns.items():
                assert array.tolist() == generation.columns[column][:size].tolist()
        assert await bench.engine.sampled({"r0": 0}) == []

    run(make_bench, scenario)


@pytest.mark.parametrize("on_update", ["keep", "reprefill", "abort"])
def test_tokens_after_a_swap_carry_its_version(make_bench: MakeBench, on_update: str) -> None:
    async def scenario(bench: Bench) -> None:
        tasks = [asyncio.create_task(bench.engine.generate(bench.request(number))) for number in range(4)]
        await bench.until_tokens(4 * 10)
        report = await bench.engine.swap_weights(V2, bench.weights(2), on_update)
        assert (report.policy_version, report.num_in_flight) == (V2, 4)
        assert report.pause_s >= 0
        assert bench.engine.policy_version == V2
        for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            generation = outcome
            if on_update == "abort":
                assert isinstance(outcome, GenerationAborted)
                assert outcome.partial is not None
                generation = await bench.engine.generate(bench.request(number, prefix=outcome.partial))
            assert isinstance(generation, Generation), outcome
            check_whole(generation, LONG)
            assert [segment.policy_version for segment in generation.segments] == [V1, V2]

    run(make_bench, scenario)


def test_a_swap_with_nothing_under_way_is_in_force_for_the_next_response(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        report = await bench.engine.swap_weights(V2, bench.weights(2), "reprefill")
        assert report.num_in_flight == 0
        generation = await bench.engine.generate(bench.request(0, FEW))
        assert [segment.policy_version for segment in generation.segments] == [V2]

    run(make_bench, scenario)


def test_an_id_under_way_is_refused_and_the_first_goes_on(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        first = asyncio.create_task(bench.engine.generate(bench.request(0, FEW)))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="r0"):
            await bench.engine.generate(bench.request(0, FEW))
        check_whole(await first, FEW)

    run(make_bench, scenario)


def test_a_cancelled_caller_frees_its_slot(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        task = asyncio.create_task(bench.engine.generate(bench.request(0)))
        await bench.until_tokens(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        check_whole(await bench.engine.generate(bench.request(0, FEW)), FEW)
        load = bench.engine.load()
        assert (load.num_running, load.num_waiting) == (0, 0)

    run(make_bench, scenario)


def test_closing_ends_whoever_still_waits(make_bench: MakeBench) -> None:
    async def scenario(bench: Bench) -> None:
        task = asyncio.create_task(bench.engine.generate(bench.request(0)))
        await bench.until_tokens(5)
        await bench.engine.close()
        with pytest.raises(ActorFailedError):
            await task
        with pytest.raises(ActorFailedError):
            await bench.engine.generate(bench.request(1))
        await bench.engine.close()

    run(make_bench, scenario)


Benches = AsyncIterator[Bench]

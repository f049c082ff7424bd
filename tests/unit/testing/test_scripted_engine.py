"""The scripted engine keeps the promises of `RolloutEngine`: slots, time, exact versions, abort and resume."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ring_async.clock import monotonic_s
from ring_async.engines.base import GenerationAborted, GenerationRequest, RolloutEngine
from ring_async.errors import ActorFailedError
from ring_async.testing.builders import version
from ring_async.testing.scripted_engine import (
    END_OF_SEQUENCE,
    ScriptedEngine,
    fixed_script,
    scripted_logprob,
    seeded_script,
)
from ring_async.testing.virtual_clock import run_virtual
from ring_async.types import Generation, SamplingParams, Segment

V0, V1, V2 = version(0), version(1), version(2)


def request(name: str = "t0", *, seed: int = 0, max_tokens: int = 64, prefix: Generation | None = None):
    return GenerationRequest(name, np.arange(3, dtype=np.int32), SamplingParams(max_tokens=max_tokens), seed, prefix)


def make_engine(*lengths: int, **settings) -> ScriptedEngine:
    settings = {"token_s": 0.1, "policy_version": V0} | settings
    return ScriptedEngine(script=fixed_script(*lengths), **settings)


async def at(seconds: float, action) -> None:
    await asyncio.sleep(seconds - monotonic_s())
    await action


def test_it_is_a_rollout_engine():
    async def main() -> RolloutEngine:
        return make_engine(1)

    assert run_virtual(main()).engine_id == "rollout-0"


def test_a_response_takes_its_tokens_time():
    async def main():
        generation = await make_engine(10).generate(request())
        return generation, monotonic_s()

    generation, now_s = run_virtual(main())
    assert now_s == pytest.approx(1.0)
    assert generation.response_ids.tolist() == list(range(1, 11))
    assert generation.segments == (Segment(0, 10, V0),)
    assert generation.behavior_logprobs.dtype == np.float32
    assert generation.behavior_logprobs.tolist() == [scripted_logprob(0, position, V0) for position in range(10)]


@pytest.mark.parametrize("on_update", ["keep", "reprefill"])
def test_tokens_after_a_swap_carry_the_version_that_sampled_them(on_update):
    async def main():
        engine = make_engine(10, swap_pause_s=0.5)
        swap = asyncio.create_task(at(0.35, engine.swap_weights(V1, {}, on_update)))
        generation = await engine.generate(request(seed=7))
        await swap
        return generation, monotonic_s(), engine.swaps

    generation, now_s, swaps = run_virtual(main())
    assert generation.segments == (Segment(0, 3, V0), Segment(3, 10, V1))
    versions = [V0] * 3 + [V1] * 7
    expected = [scripted_logprob(7, position, sampled_by) for position, sampled_by in enumerate(versions)]
    assert generation.behavior_logprobs.tolist() == expected
    assert now_s == pytest.approx(0.35 + 0.5 + 0.7)
    assert swaps == [(V1, on_update)]


def test_two_swaps_make_three_segments_and_an_equal_version_none():
    async def main():
        engine = make_engine(10)
        swaps = [
            asyncio.create_task(at(when_s, engine.swap_weights(to, {}, "keep")))
            for when_s, to in ((0.201, V1), (0.402, V1), (0.703, V2))
        ]
        generation = await engine.generate(request())
        await asyncio.gather(*swaps)
        return generation

    assert run_virtual(main()).segments == (Segment(0, 2, V0), Segment(2, 7, V1), Segment(7, 10, V2))


def test_a_swap_reports_its_pause_and_what_was_in_flight():
    async def main():
        engine = make_engine(10, 10, capacity=1, swap_pause_s=0.25)
        generating = [asyncio.create_task(engine.generate(request(f"t{index}"))) for index in range(2)]
        await asyncio.sleep(0.5)
        report = await engine.swap_weights(V1, {}, "keep")
        await asyncio.gather(*generating)
        return report

    report = run_virtual(main())
    assert (report.policy_version, report.num_in_flight) == (V1, 1)
    assert report.pause_s == pytest.approx(0.25)


def test_an_aborted_response_resumes_from_its_prefix_under_the_new_version():
    async def main():
        engine = make_engine(10)
        generating = asyncio.create_task(engine.generate(request()))
        await asyncio.sleep(0.45)
        await engine.swap_weights(V1, {}, "abort")
        with pytest.raises(GenerationAborted) as aborted:
            await generating
        partial = aborted.value.partial
        return partial, await engine.generate(request(prefix=partial)), monotonic_s()

    partial, generation, now_s = run_virtual(main())
    assert partial.segments == (Segment(0, 4, V0),)
    assert partial.response_ids.tolist() == [1, 2, 3, 4]
    assert generation.segments == (Segment(0, 4, V0), Segment(4, 10, V1))
    assert generation.behavior_logprobs[:4].tolist() == partial.behavior_logprobs.tolist()
    assert now_s == pytest.approx(0.45 + 0.6)


def test_requests_beyond_capacity_wait_in_order_and_can_be_aborted_there():
    async def main():
        engine = make_engine(10, capacity=1)
        order: list[str] = []

        async def generate(name: str) -> None:
            await engine.generate(request(name))
            order.append(f"{name}@{monotonic_s():.1f}")

        tasks = {name: asyncio.create_task(generate(name)) for name in ("a", "b", "c")}
        await asyncio.sleep(0.3)
        load = engine.load()
        await engine.abort(("b",))
        with pytest.raises(GenerationAborted) as aborted:
            await tasks["b"]
        await asyncio.gather(tasks["a"], tasks["c"])
        return order, aborted.value.partial, load, engine.load()

    order, partial, during, after = run_virtual(main())
    assert order == ["a@1.0", "c@2.0"]
    assert partial is None
    assert (during.num_running, during.num_waiting, during.generated_tokens) == (1, 2, 3)
    assert during.busy_s == pytest.approx(0.3)
    assert (after.num_running, after.num_waiting, after.generated_tokens) == (0, 0, 20)
    assert after.busy_s == pytest.approx(2.0)


def test_looking_at_the_load_does_not_change_what_happens():
    async def main(looks: int):
        engine = make_engine(10)
        generating = asyncio.create_task(engine.generate(request()))
        for _ in range(looks):
            await asyncio.sleep(0.07)
            engine.load()
        await asyncio.sleep(0.35 - monotonic_s())
        await engine.swap_weights(V1, {}, "keep")
        return (await generating).segments

    assert run_virtual(main(0)) == run_virtual(main(4)) == (Segment(0, 3, V0), Segment(3, 10, V1))


def test_a_fresh_engine_serves_nothing_before_it_has_weights():
    async def main():
        engine = make_engine(2, policy_version=None)
        generating = asyncio.create_task(engine.generate(request()))
        await asyncio.sleep(100)
        sampled_before = engine.load().generated_tokens
        await engine.swap_weights(V1, {}, "keep")
        return sampled_before, (await generating).segments

    assert run_virtual(main()) == (0, (Segment(0, 2, V1),))


def test_a_crash_ends_what_runs_what_waits_and_what_comes_later():
    async def main():
        engine = make_engine(10, capacity=1)
        tasks = [asyncio.create_task(engine.generate(request(f"t{index}"))) for index in range(2)]
        await asyncio.sleep(0.2)
        engine.crash()
        outcomes = await asyncio.gather(*tasks, engine.generate(request("late")), return_exceptions=True)
        await engine.close()
        return outcomes

    assert [type(outcome) for outcome in run_virtual(main())] == [ActorFailedError] * 3


def test_seeded_responses_depend_on_the_request_alone():
    respond = seeded_script(mean_tokens=6.0)
    first, again, other = (respond(request(seed=seed)) for seed in (3, 3, 4))
    assert first.response_ids.tolist() == again.response_ids.tolist() != other.response_ids.tolist()
    lengths = [respond(request(seed=seed, max_tokens=10)).response_ids.size for seed in range(300)]
    assert max(lengths) == 10
    assert 3 < sum(lengths) / len(lengths) < 7
    for seed in range(50):
        response = respond(request(seed=seed, max_tokens=10))
        assert (response.finish_reason == "stop") == (response.response_ids[-1] == END_OF_SEQUENCE)

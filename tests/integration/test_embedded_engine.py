"""The embedded engine with the shipped model: exact beside the learner, exact across swaps, and orderly at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ring_async.engines.base import GenerationAborted, GenerationRequest
from ring_async.engines.embedded.engine import EmbeddedEngine
from ring_async.engines.tokenizer import encode_prompt, load_tokenizer
from ring_async.errors import ActorFailedError, ConfigError, WeightsError
from ring_async.models import resolve_model_path
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.types import Generation, PolicyVersion, SamplingParams, Segment

TINY = resolve_model_path("builtin:tiny")
V0, V1 = PolicyVersion(0, 0), PolicyVersion(0, 1)
EXACT = 1e-4
LONG_TEXT = "Tell me everything you know, slowly"


@asynccontextmanager
async def running(
    model_path: Path = TINY, *, policy_version: PolicyVersion | None = V0, **options
) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine("test", model_path, policy_version=policy_version, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def make_request(number: int, *, text: str = "", max_tokens: int = 64, temperature: float = 1.0) -> GenerationRequest:
    text = text or f"State the final answer to the following arithmetic problem: {10 + number} + 25 - {number} ="
    prompt_ids = encode_prompt(load_tokenizer(TINY), text)
    return GenerationRequest(f"r{number}", prompt_ids, SamplingParams(temperature, max_tokens), seed=number)


def load_model(model_path: Path = TINY):
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()


def nudged(model, scale: float = 0.05) -> dict[str, torch.Tensor]:
    """Other weights, near enough to answer alike."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: (tensor * (1 + scale * torch.randn(tensor.shape, generator=generator))).detach()
        for name, tensor in model.named_parameters()
    }


@torch.no_grad()
def fresh_logprobs(model, request: GenerationRequest, generation: Generation) -> np.ndarray:
    ids = torch.tensor([[*request.prompt_ids, *generation.response_ids]]).long()
    start = request.prompt_ids.size
    logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1] / request.sampling.temperature
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, start:, None])[:, 0].numpy()


def test_behavior_logprobs_equal_the_learners_at_equal_weights() -> None:
    requests = [make_request(number, temperature=(1.0, 0.7)[number % 2]) for number in range(24)]

    async def sample() -> list[Generation]:
        async with running(max_running_requests=8) as engine:
            return await asyncio.gather(*(engine.generate(request) for request in requests))

    generations = asyncio.run(sample())
    specs = [
        SequenceSpec(
            prompt_ids=request.prompt_ids.tolist(),
            response_ids=generation.response_ids.tolist(),
            behavior_logprobs=generation.behavior_logprobs.tolist(),
            temperature=request.sampling.temperature,
        )
        for request, generation in zip(requests, generations, strict=True)
    ]
    batch = pack_sequences(specs, token_capacity=256)
    learner = HfTrainEngine(make_config(learner__token_capacity=256, learner__rows_per_microbatch=2), TINY)
    is_response = batch.loss_mask == 1
    assert is_response.sum() == sum(generation.response_ids.size for generation in generations)
    difference = np.abs(learner.logprobs(batch) - batch.behavior_logprobs)[is_response]
    learner.close()
    assert difference.max() < EXACT


@pytest.mark.parametrize("on_update", ["keep", "reprefill"])
def test_tokens_carry_the_version_that_sampled_them_across_a_swap(on_update) -> None:
    before, after = load_model(), load_model()
    weights = nudged(before)
    after.load_state_dict(weights, strict=False)
    requests = [make_request(number, text=f"{LONG_TEXT} {number}", max_tokens=180) for number in range(6)]

    async def sample() -> list[Generation]:
        async with running() as engine:
            engine._batcher._stops[:] = False  # every response runs to its length, so the swap meets them all
            tasks = [asyncio.create_task(engine.generate(request)) for request in requests]
            while engine.load().generated_tokens < 6 * 20:
                await asyncio.sleep(0)
            report = await engine.swap_weights(V1, weights, on_update)
            assert (report.policy_version, report.num_in_flight) == (V1, 6)
            assert report.pause_s > 0
            return list(await asyncio.gather(*tasks))

    gaps = []
    for request, generation in zip(requests, asyncio.run(sample()), strict=True):
        first, second = generation.segments
        assert (first.policy_version, second.policy_version, second.end) == (V0, V1, 180)
        old, new = fresh_logprobs(before, request, generation), fresh_logprobs(after, request, generation)
        found, cut = generation.behavior_logprobs, second.start
        assert np.abs(found[:cut] - old[:cut]).max() < EXACT
        gaps.append(np.abs(found[cut:] - new[cut:]).max())
        assert np.abs(old - new).max() > 100 * EXACT
    if on_update == "reprefill":
        assert max(gaps) < EXACT
    else:
        assert min(gaps) > EXACT


def test_aborted_responses_resume_in_another_engine_as_if_nothing_had_been() -> None:
    request = make_request(3, text=LONG_TEXT, max_tokens=120)

    async def scenario() -> tuple[Generation, Generation]:
        async with running() as first, running() as second:
            for engine in (first, second):
                engine._batcher._stops[:] = False
            whole = await second.generate(request)
            task = asyncio.create_task(first.generate(request))
            while first.load().generated_tokens < 30:
                await asyncio.sleep(0)
            await first.abort((request.request_id,))
            with pytest.raises(GenerationAborted) as aborted:
                await task
            assert first.load().num_running == 0
            partial = aborted.value.partial
            assert partial is not None
            assert 30 <= partial.response_ids.size < 120
            rest = GenerationRequest("rest", request.prompt_ids, request.sampling, request.seed, prefix=partial)
            return whole, await second.generate(rest)

    whole, resumed = asyncio.run(scenario())
    assert resumed.response_ids.tolist() == whole.response_ids.tolist()
    np.testing.assert_allclose(resumed.behavior_logprobs, whole.behavior_logprobs, atol=EXACT)
    assert resumed.segments == (Segment(0, 120, V0),)


def test_a_cancelled_caller_frees_its_row() -> None:
    async def scenario() -> None:
        async with running(max_running_requests=1) as engine:
            engine._batcher._stops[:] = False
            task = asyncio.create_task(engine.generate(make_request(0, text=LONG_TEXT, max_tokens=200)))
            while engine.load().generated_tokens < 5:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            generation = await engine.generate(make_request(1, max_tokens=4))
            assert generation.response_ids.size == 4
            assert engine.load().generated_tokens < 200

    asyncio.run(scenario())


def test_a_fresh_engine_serves_nothing_before_it_has_a_version() -> None:
    async def scenario() -> None:
        async with running(policy_version=None) as engine:
            assert engine.policy_version is None
            with pytest.raises(ActorFailedError, match="no weights are in force"):
                await engine.generate(make_request(0))
            await engine.swap_weights(V1, dict(load_model().named_parameters()), "keep")
            generation = await engine.generate(make_request(0))
            assert {segment.policy_version for segment in generation.segments} == {V1}

    asyncio.run(scenario())


def test_refusals_reach_their_caller_and_hurt_nobody_else() -> None:
    async def scenario() -> None:
        async with running() as engine:
            good = asyncio.create_task(engine.generate(make_request(0)))
            with pytest.raises(ValueError, match="256 positions"):
                await engine.generate(make_request(1, max_tokens=300))
            with pytest.raises(WeightsError, match="missing"):
                await engine.swap_weights(V1, {}, "keep")
            with pytest.raises(ValueError, match="already running"):
                await asyncio.gather(engine.generate(make_request(2)), engine.generate(make_request(2)))
            assert engine.policy_version == V0
            assert (await good).segments[0].policy_version == V0

    asyncio.run(scenario())


def test_closing_ends_whoever_still_waits() -> None:
    async def scenario() -> None:
        async with running() as engine:
            engine._batcher._stops[:] = False
            task = asyncio.create_task(engine.generate(make_request(0, text=LONG_TEXT, max_tokens=200)))
            while engine.load().generated_tokens < 5:
                await asyncio.sleep(0)
            await engine.close()
            with pytest.raises(ActorFailedError, match="closed"):
                await task
            with pytest.raises(ActorFailedError):
                await engine.generate(make_request(1))

    asyncio.run(scenario())


def test_a_folder_without_a_model_is_a_clear_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = EmbeddedEngine("test", tmp_path)
        try:
            with pytest.raises(ConfigError, match="cannot be loaded"):
                await engine.start()
        finally:
            await engine.close()

    asyncio.run(scenario())

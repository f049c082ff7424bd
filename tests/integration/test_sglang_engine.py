"""The SGLang engine over its protocol: versions that are true, caches that are as old as claimed, servers that die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ring_async.engines.base import GenerationAborted, GenerationRequest
from ring_async.engines.sglang.engine import SglangEngine
from ring_async.engines.sglang.life import ServerLife
from ring_async.engines.sglang.response import kv_age_of
from ring_async.engines.sglang.weights import read_expected_weights
from ring_async.errors import ActorFailedError, ConfigError, WeightsError
from ring_async.models import resolve_model_path
from ring_async.testing.builders import make_config
from ring_async.testing.fake_sglang import END, FakeSglang, truth
from ring_async.training.registry import make_trainer
from ring_async.types import Generation, PolicyVersion, SamplingParams


def weights_of(number: int) -> dict[str, torch.Tensor]:
    return {"version": torch.tensor([float(number)])}


def version_of(number: int) -> PolicyVersion:
    return PolicyVersion(0, number)


def request_of(number: int, *, length: int = 100, max_tokens: int = 300) -> GenerationRequest:
    """A response of `length` tokens, the last of them the end."""
    return GenerationRequest(
        f"r{number}", np.array([length, number], np.int32), SamplingParams(1.0, max_tokens), number
    )


@asynccontextmanager
async def engine_on(server: FakeSglang, folder: Path, **options) -> AsyncIterator[SglangEngine]:
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "eos_token_id": END}))
    engine = SglangEngine("test", folder, device="cpu", address=server.url, **{"stream_interval": 8, **options})
    await engine.start()
    try:
        await engine.swap_weights(version_of(1), weights_of(1), "reprefill")
        yield engine
        assert not server.problems
    finally:
        await engine.close()


async def until_tokens(engine: SglangEngine, count: int) -> None:
    async with asyncio.timeout(20):
        while engine.load().generated_tokens < count:
            await asyncio.sleep(0.002)


def test_what_was_sampled_can_be_handed_over_while_the_server_restarts(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeSglang("0.5.17", has_tags=True, step_s=0.002) as server, engine_on(server, tmp_path) as engine:
            generating = asyncio.create_task(engine.generate(request_of(1)))
            await until_tokens(engine, 20)
            life, engine._keeper._life = engine._keeper._life, None  # as between two lives
            (piece,) = await engine.sampled({"r1": 0, "r2": 0})
            engine._keeper._life = life
            assert piece.header.num_tokens >= 20
            whole = await generating
            assert whole.response_ids[: piece.header.num_tokens].tolist() == piece.response_ids.tolist()

    asyncio.run(main())


def check_true(generations: Sequence[Generation], *, is_age_exact: bool = True) -> None:
    """Every token was sampled by the version it claims, over a cache no older than it claims."""
    for generation in generations:
        ages = kv_age_of(generation)
        for segment in generation.segments:
            for at in range(segment.start, segment.end):
                sampled, cached = truth(float(generation.behavior_logprobs[at]))
                assert sampled == segment.policy_version.number, (at, segment)
                assert ages[at] == sampled - cached if is_age_exact else ages[at] >= sampled - cached


async def swap_under_way(
    engine: SglangEngine, on_update: str, numbers: Sequence[int], num_responses: int = 10
) -> list[Generation | BaseException]:
    tasks = [asyncio.create_task(engine.generate(request_of(number))) for number in range(num_responses)]
    for number in numbers:
        await until_tokens(engine, engine.load().generated_tokens + 16 * num_responses)
        await engine.swap_weights(version_of(number), weights_of(number), on_update)
    return list(await asyncio.gather(*tasks, return_exceptions=True))


@pytest.mark.parametrize("on_update", ["keep", "reprefill"])
@pytest.mark.parametrize("release", ["0.5.17", "0.5.23"])
def test_versions_and_ages_are_true_across_swaps(tmp_path: Path, release: str, on_update: str) -> None:
    async def scenario() -> None:
        async with FakeSglang(release) as server, engine_on(server, tmp_path) as engine:
            generations = await swap_under_way(engine, on_update, [2, 3])
            check_true(generations)
            for generation in generations:
                assert generation.response_ids.size == 100
                assert generation.finish_reason == "stop"
                assert [segment.policy_version.number for segment in generation.segments] == [1, 2, 3]
                assert kv_age_of(generation).max() == (2 if on_update == "keep" else 0)

    asyncio.run(scenario())


def test_without_tags_a_server_is_emptied_before_an_update_and_keep_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang(has_tags=False) as server, engine_on(server, tmp_path) as engine:
            generations = await swap_under_way(engine, "reprefill", [2, 3])
            check_true(generations)
            assert all(len(generation.segments) == 3 for generation in generations)
            with pytest.raises(ConfigError, match="tags its steps"):
                await engine.swap_weights(version_of(4), weights_of(4), "keep")
            assert engine.policy_version == version_of(3)

    asyncio.run(scenario())


def test_what_abort_leaves_is_exact_and_goes_on_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            outcomes = await swap_under_way(engine, "abort", [2])
            assert all(isinstance(outcome, GenerationAborted) for outcome in outcomes)
            partials = [outcome.partial for outcome in outcomes]
            check_true(partials)
            requests = [request_of(number) for number in range(10)]
            wholes = [
                GenerationRequest(one.request_id, one.prompt_ids, one.sampling, one.seed, partial)
                for one, partial in zip(requests, partials, strict=True)
            ]
            generations = await asyncio.gather(*(engine.generate(request) for request in wholes))
            check_true(generations)
            assert all(generation.response_ids.size == 100 for generation in generations)

    asyncio.run(scenario())


def test_the_salt_changes_with_the_version_in_force_and_not_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            await engine.generate(request_of(0, length=5))
            await engine.swap_weights(version_of(2), weights_of(2), "keep")
            generation = await engine.generate(request_of(0, length=5))
            check_true([generation])
            assert server.salts == ["probe.", "0.1", "0.2"]

    asyncio.run(scenario())


def test_under_keep_a_cache_that_would_grow_too_old_is_computed_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path, max_kv_age=1) as engine:
            generations = await swap_under_way(engine, "keep", [2, 3])
            check_true(generations)
            assert {int(kv_age_of(generation).max()) for generation in generations} == {1}
            assert all(kv_age_of(generation)[-1] == 0 for generation in generations)

    asyncio.run(scenario())


def test_streams_that_break_off_are_taken_up_from_the_tokens_received(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            tasks = [asyncio.create_task(engine.generate(request_of(number))) for number in range(6)]
            await until_tokens(engine, 6 * 17)
            first = {leg.request_id: list(leg.ids) for leg in engine._legs}
            server.break_off()
            generations = await asyncio.gather(*tasks)
            check_true(generations)
            wholes = [generation.response_ids.tolist() for generation in generations]
            assert all(len(whole) == 100 for whole in wholes)
            assert all(any(whole[: len(ids)] == ids for whole in wholes) for ids in first.values())
            assert server.num_requests == 1 + 12  # the probe, and every response in two legs

    asyncio.run(scenario())


def test_a_server_that_answers_but_brings_no_token_counts_as_dead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path, stall_s=0.2) as engine:
            task = asyncio.create_task(engine.generate(request_of(0)))
            await until_tokens(engine, 9)
            server.stall()
            with pytest.raises(ActorFailedError, match=r"no token came for 0\.2 s with 1 requests under way"):
                await task

    asyncio.run(scenario())


def test_an_engine_whose_keeper_falls_ill_does_not_go_on_unwatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:

            async def broken(_: ServerLife) -> None:
                raise RuntimeError("unforeseen")

            monkeypatch.setattr(ServerLife, "cache_loads", broken)
            with pytest.raises(ActorFailedError, match="unforeseen"):
                await engine.generate(request_of(0, length=3000, max_tokens=3500))

    asyncio.run(scenario())


def test_capacity_follows_what_the_cache_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path, max_running_requests=40) as engine:
            assert engine.load().capacity == 40
            task = asyncio.create_task(engine.generate(request_of(0, length=1500, max_tokens=2000)))
            await until_tokens(engine, 9)
            engine._keeper.life.reader.num_retractions = 3
            async with asyncio.timeout(20):
                while engine.load().capacity == 40:
                    await asyncio.sleep(0.01)
            assert engine.load().capacity == 8
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_a_version_with_other_names_is_refused_and_the_one_in_force_stays(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights_of(0), tmp_path / "model.safetensors")

    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            for wrong in ({}, {**weights_of(2), "other": torch.zeros(1)}, {"version": torch.zeros(2)}):
                with pytest.raises(WeightsError, match=r"version 0\.2"):
                    await engine.swap_weights(version_of(2), wrong, "reprefill")
            generation = await engine.generate(request_of(0, length=5))
            check_true([generation])
            assert engine.policy_version == version_of(1)

    asyncio.run(scenario())


def test_weights_that_do_not_reach_a_parameter_are_told_by_its_checksum(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            life = engine._keeper.life
            engine._staging.fill(version_of(2), {"unknown": torch.zeros(1)}, engine._model.expected)
            with pytest.raises(WeightsError, match=r"1 of the server's parameters .* rank 0: version"):
                await life.update_checked(await life.prepare(engine._staging))

    asyncio.run(scenario())


def test_logits_that_are_no_numbers_end_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server, engine_on(server, tmp_path) as engine:
            monkeypatch.setattr(server, "_launch", lambda request: (request, 1, float("nan"), server.serial))
            with pytest.raises(ActorFailedError, match="not numbers"):
                await engine.generate(request_of(0))
            with pytest.raises(ActorFailedError, match="not numbers"):
                await engine.generate(request_of(1))

    asyncio.run(scenario())


def test_an_engine_serves_nothing_before_its_first_version_and_refuses_what_cannot_fit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang() as server:
            (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "eos_token_id": END}))
            engine = SglangEngine("test", tmp_path, device="cpu", address=server.url)
            with pytest.raises(ActorFailedError, match="no weights"):
                await engine.generate(request_of(0))
            await engine.start()
            try:
                await engine.swap_weights(version_of(1), weights_of(1), "keep")
                with pytest.raises(ValueError, match="64 positions"):
                    await engine.generate(request_of(0))
            finally:
                await engine.close()

    asyncio.run(scenario())


def test_a_server_that_is_too_old_or_a_folder_without_a_model_is_a_clear_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeSglang("0.5.9") as server:
            engine = SglangEngine("test", tmp_path, device="cpu", address=server.url)
            try:
                with pytest.raises(ConfigError, match="cannot be served"):
                    await engine.start()
                (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
                with pytest.raises(ConfigError, match="too old"):
                    await engine.start()
            finally:
                await engine.close()

    asyncio.run(scenario())


def test_what_the_learner_publishes_is_what_the_engine_expects() -> None:
    expected = read_expected_weights(resolve_model_path("builtin:tiny"))
    trainer = make_trainer(make_config())
    snapshot = trainer.snapshot()
    try:
        expected.check(version_of(1), dict(snapshot.tensors()))
    finally:
        snapshot.close()
        trainer.close()

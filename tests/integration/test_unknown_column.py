"""A column that nobody here knows goes from an engine to the learner through every actor, unharmed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from one_process_run import EVEN_TOTAL, lines, run, until_version
from ring_async.batches import PackedBatch
from ring_async.columns import Column, Columns
from ring_async.engines.base import GenerationRequest
from ring_async.storage.audit import audit
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_engine import ScriptedEngine
from ring_async.types import Generation, Int32

TURN_TRACE = Column("turn_trace", "float16", 3)
KV_AGE = Column("kv_age", "uint8")


def values(response_ids: Int32) -> Columns:
    """What the engine adds: bits that follow from ids and positions, not-a-numbers among them."""
    places = np.arange(response_ids.size, dtype=np.int64)[:, None]
    bits = (response_ids.astype(np.int64)[:, None] * 7_919 + places * 104_729 + np.arange(3) * 31) % 65_521
    ages: npt.NDArray[np.uint8] = (response_ids % 251).astype(np.uint8)
    return {TURN_TRACE.name: bits.astype(np.uint16).view(np.float16), KV_AGE.name: ages}


class ColumnEngine(ScriptedEngine):
    """A scripted engine that adds two columns."""

    async def generate(self, request: GenerationRequest) -> Generation:
        generation = await super().generate(request)
        return dataclasses.replace(generation, columns=values(generation.response_ids))


class ColumnFleet(OneProcessFleet):
    def _new_engine(self, actor_id: str) -> ScriptedEngine:
        engine = ColumnEngine(
            actor_id, script=self._script, token_s=self._token_s, capacity=self.config.rollout.max_running_requests
        )
        self.engines[actor_id] = engine
        return engine


def make_fleet(runs: Path, **overrides: Any) -> ColumnFleet:
    settings: dict[str, Any] = {
        "stop__policy_versions": 6,
        "rollout__group_size": 4,
        "rollout__max_running_requests": 16,
        "verifiers": {"exact": {"use": EVEN_TOTAL}},
        "replay__map_size_bytes": 16 << 20,
    }
    return ColumnFleet(make_config(**(settings | overrides)), runs)


def check_batch(batch: PackedBatch) -> None:
    """Every response has the values that its ids say, bit by bit, and everything else is zero."""
    plan = batch.plan
    assert plan.columns == (TURN_TRACE, KV_AGE)
    seen = {name: np.zeros(array.shape, bool) for name, array in batch.columns.items()}
    for sequence in plan.sequences:
        start = sequence.offset + sequence.num_prompt_tokens
        place = (sequence.row, slice(start, start + sequence.num_response_tokens))
        for name, expected in values(batch.input_ids[place]).items():
            found = batch.columns[name][place]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tobytes() == expected.tobytes()
            seen[name][place] = True
    for name, array in batch.columns.items():
        assert array.shape[:2] == (plan.num_rows, plan.token_capacity)
        assert not array[~seen[name]].view(np.uint8).any(), "padding and prompts are zero"


@pytest.mark.parametrize("num_shards", [1, 3])
def test_an_unknown_column_reaches_the_learner_unharmed_also_over_a_restart_of_replay(tmp_path: Path, num_shards: int):
    restarted = [f"replay-{index}" for index in range(num_shards)]

    async def kill(fleet: OneProcessFleet) -> None:
        for number, shard in enumerate(restarted, start=2):
            await until_version(fleet, number)
            fleet.kill(shard)

    fleet = make_fleet(tmp_path, replay__num=num_shards)
    assert run(fleet, kill) == ""
    lost = [event["actor"] for event in lines(fleet.run_dir.events) if event["kind"] == "actor_lost"]
    assert lost == restarted
    batches = [batch for engine in fleet.train_engines for batch in engine.batches]
    assert len(batches) == 6
    for batch in batches:
        check_batch(batch)
        assert batch.loss_mask.sum() == 64
    num_stored = 0
    for index in range(num_shards):
        store = ReplayStore(fleet.run_dir.replay / f"replay-{index}", 16 << 20, is_readonly=True)
        with store.read() as reader:
            for group_id in reader.group_ids():
                group = reader.group(group_id)
                assert group is not None
                num_stored += 1
                for response in group:
                    for name, expected in values(response.response_ids).items():
                        assert response.columns[name].tobytes() == expected.tobytes()
                del group, response
        store.close()
    assert num_stored > 0
    assert audit(fleet.run_dir.path).is_clean

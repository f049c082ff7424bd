"""Leaders of data-parallel ranks ask a replay process for the same plan, and each is given its own rows."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from replay_process import TOKEN_BUDGET, ReplayRig
from ring_async.batches import PackedBatch
from ring_async.core.rank_batches import RankShare, batch_of_rank
from ring_async.errors import RefusedError
from ring_async.training.layout import check_batch
from ring_async.transport.batch_wire import read_batch
from ring_async.transport.messages.batches import BatchReady, RequestBatch
from ring_async.types import PolicyVersion

PLAN = 2
NUM_RANKS = 3


async def ask(rig: ReplayRig, data_rank: int | None) -> tuple[PackedBatch, RankShare | None]:
    question = RequestBatch(PLAN, PolicyVersion(0, PLAN - 1), 5.0, data_rank)
    answer = await rig.data_links["replay-0"].request(question, timeout_s=10.0)
    assert isinstance(answer.message, BatchReady)
    return read_batch(answer.buffers), answer.message.share


async def ask_for_every_rank(folder: Path) -> None:
    rig = ReplayRig(folder, num_ranks=NUM_RANKS, seed=1)
    try:
        async with rig.running():
            rig.start("replay-0")
            await rig.up("replay-0")
            while rig.version.number < PLAN:
                await asyncio.sleep(0.01)
            whole, no_share = await ask(rig, None)
            parts = [await ask(rig, rank) for rank in range(NUM_RANKS)]
            with pytest.raises(RefusedError, match=f"plan {PLAN}: rank {NUM_RANKS} of {NUM_RANKS}"):
                await ask(rig, NUM_RANKS)
    finally:
        shutil.rmtree(rig.socket_dir, ignore_errors=True)
    assert no_share is None
    assert whole.plan.num_ranks == NUM_RANKS
    for rank, (own, share) in enumerate(parts):
        expected, expected_share = batch_of_rank(whole, rank)
        assert (own.plan, share) == (expected.plan, expected_share)
        assert own.plan.token_budget == TOKEN_BUDGET
        check_batch(own, share)
        for mine, meant in zip(own.buffers, expected.buffers, strict=True):
            assert np.array_equal(mine, meant, equal_nan=True)
    assert sum(share.num_loss_tokens for _, share in parts if share is not None) == TOKEN_BUDGET


@pytest.mark.timeout(120)
def test_every_rank_is_given_its_own_rows_of_one_plan(tmp_path: Path) -> None:
    asyncio.run(ask_for_every_rank(tmp_path))

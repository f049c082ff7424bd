"""A batch of 20,000 responses, planned, packed, carried and accounted for under the default limits of the transport."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ring_async.batches import PackedBatch
from ring_async.config.schema import TransportSection
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group
from ring_async.transport.batch_wire import batch_buffers, read_batch
from ring_async.transport.codec import Codec
from ring_async.transport.messages.batches import BatchReady
from ring_async.transport.messages.work import TrajectoriesMoved
from ring_async.types import PolicyVersion

NUM_GROUPS, GROUP_SIZE = 1_250, 16
NUM_SEQUENCES = NUM_GROUPS * GROUP_SIZE


def test_a_plan_of_20_000_sequences_passes(tmp_path: Path):
    rules = BufferRules(token_budget=2 * NUM_SEQUENCES, token_capacity=512, max_staleness=2, order="fifo")
    shard = ReplayShard(ReplayStore(tmp_path, 512 << 20), rules, AdvantageRules())
    rewards = [1.0, 0.0] * (GROUP_SIZE // 2)
    groups = [make_group(f"chain_sum-{n:08d}", rewards=rewards, lengths=2) for n in range(NUM_GROUPS)]
    shard.put(groups)
    batch = shard.batch(1, PolicyVersion(0, 0))
    assert isinstance(batch, PackedBatch)
    assert len(batch.plan.sequences) == NUM_SEQUENCES
    shard.cover(1)
    shard.flush()

    codec = Codec(TransportSection())
    codec.encode_message(BatchReady(1))
    received = read_batch([bytes(view) for view in codec.check_buffers(batch_buffers(batch))])
    assert received.plan == batch.plan
    for sent, got in zip(batch.buffers, received.buffers, strict=True):
        np.testing.assert_array_equal(sent, got)

    reports = [states for _, states in shard.unheard_after(0)]
    for states in reports:
        codec.encode_message(TrajectoriesMoved(states))
    told = [(state.trajectory_id, state.state) for states in reports for state in states]
    expected = {f"{group.header.group_id}/{k}" for group in groups for k in range(GROUP_SIZE)}
    for state in ("buffered", "consumed", "retired"):
        assert {name for name, moved in told if moved == state} == expected
    shard.close()

"""Hundreds of batches in a row from groups that come as they are needed: what was cut is trained to its end."""

import numpy as np
import pytest

from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.progress import make_record
from ring_async.core.replay.token_budget import Shortfall
from ring_async.testing.builders import make_group
from ring_async.types import PolicyVersion

LONGEST = 64


def arrive(buffer, rng, number, version, source):
    lengths = rng.integers(1, LONGEST + 1, 4).tolist()
    group = make_group(f"g{number}", rewards=[1, 0, 0, 0], lengths=lengths, versions=version, source=source)
    record = make_record(group.header, [1.0] * 4, group.loss_mask, buffer.next_arrival)
    buffer.add(record, buffer.admit(record, [False] * 4))


@pytest.mark.parametrize(
    ("token_budget", "max_staleness", "shares"),
    [(256, 1, {"a": 1.0}), (256, 2, {"a": 0.2, "b": 0.8}), (128, 1, {"a": 0.1, "b": 0.3, "c": 0.6})],
)
def test_no_remainder_of_a_cut_response_is_ever_evicted(token_budget, max_staleness, shares):
    rng = np.random.default_rng(1)
    rules = BufferRules(token_budget, LONGEST + 8, max_staleness=max_staleness, source_shares=shares, seed=1)
    buffer = ReplayBuffer(rules)
    number = num_cut = 0
    while buffer.last_plan < 150:
        version = buffer.last_plan
        evicted = buffer.evict(PolicyVersion(0, version))
        for group_id, progress in evicted.progress.items():
            for before, after in zip(buffer.progress(group_id), progress, strict=True):
                assert not (before.is_open and before.position and not after.is_open), f"{group_id} at {version}"
        buffer.apply(evicted)
        change = buffer.plan(version + 1, PolicyVersion(0, version))
        if isinstance(change, Shortfall):
            born = max(0, version - int(rng.integers(0, max_staleness + 1)))
            arrive(buffer, rng, number, born, str(rng.choice(list(shares))))
            number += 1
            continue
        num_cut += sum(one.interval.end < one.num_response_tokens for one in change.entry.plan.sequences)
        buffer.apply(change)
        buffer.apply(buffer.cover(version + 1))
    assert num_cut > 50

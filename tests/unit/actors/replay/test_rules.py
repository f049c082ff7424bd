"""The buffer's rules, from the configuration and from knobs turned while it runs."""

import pytest

from ring_async.actors.replay.rules import buffer_rules, tuned_rules
from ring_async.core.replay.buffer import ReplayBuffer
from ring_async.core.replay.progress import make_record
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config, make_group
from ring_async.types import PolicyVersion

SOURCES = {name: {"task": "chain_sum", "verifier": "exact"} for name in ("sums", "letters")}
MIXTURE = {"sums": 1.0, "letters": 3.0}


def two_sources(**overrides):
    return make_config(sources=SOURCES, mixture=MIXTURE, **overrides)


def test_quotas_follow_the_mixture_only_where_they_are_asked_for():
    assert buffer_rules(two_sources()).source_shares is None
    assert buffer_rules(two_sources(budget__quotas="mixture")).source_shares == MIXTURE


def test_a_turned_mixture_turns_the_quotas():
    config = two_sources(budget__quotas="mixture")
    assert tuned_rules(config, {"mixture": {"sums": 1, "new": 1}}).source_shares == {"sums": 1.0, "new": 1.0}
    assert tuned_rules(two_sources(), {"mixture": {"sums": 1}}).source_shares is None
    assert tuned_rules(config, {"replay.max_staleness": 7}).max_staleness == 7


def test_quotas_that_give_nobody_anything_are_refused():
    config = two_sources(budget__quotas="mixture")
    buffer = ReplayBuffer(buffer_rules(config))
    for weights in ({}, {"sums": 0.0}, {"sums": 1.0, "letters": -1.0}):
        with pytest.raises(ConfigError, match="gives no source a share"):
            buffer.tune(tuned_rules(config, {"mixture": weights}))
    with pytest.raises(ConfigError, match=r"replay\.max_staleness"):
        tuned_rules(config, {"replay.max_staleness": "long"})
    assert buffer.rules.source_shares == MIXTURE


def test_batches_hold_the_mixture_though_one_source_floods_the_buffer():
    config = two_sources(budget__quotas="mixture", replay__max_buffer_tokens=4_096)
    buffer = ReplayBuffer(buffer_rules(config))
    for number in range(60):  # five groups of sums for each of letters, and they come first
        source = "letters" if number % 6 == 5 else "sums"
        group = make_group(f"g{number}", source=source, rewards=[1, 0], lengths=8)
        record = make_record(group.header, [1.0, -1.0], group.loss_mask, buffer.next_arrival)
        buffer.add(record, buffer.admit(record, [False, False]))
    assert trained(buffer) == {"sums": 16, "letters": 48}
    buffer.tune(tuned_rules(config, {"mixture": {"sums": 1, "letters": 1}}))
    assert trained(buffer) == {"sums": 32, "letters": 32}


def trained(buffer):
    """Loss tokens of the next batch by source."""
    change = buffer.plan(buffer.last_plan + 1, PolicyVersion(0, 0))
    buffer.apply(change)
    tokens = {}
    for sequence, num_tokens in zip(change.plan.sequences, change.entry.loss_tokens, strict=True):
        tokens[sequence.source] = tokens.get(sequence.source, 0) + num_tokens
    return tokens

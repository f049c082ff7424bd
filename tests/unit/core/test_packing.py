"""Rows of one fixed shape: everything in its place, little padding, balanced ranks."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.batches import TokenInterval
from ring_async.columns import Column
from ring_async.core.packing import lay_out, pack_batch, padding_fraction, sequence_cost
from ring_async.core.staleness import Lineage
from ring_async.testing.builders import make_group, make_plan
from ring_async.types import PolicyVersion


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.integers(1, 4))
def test_sequences_lie_whole_and_apart(lengths, num_ranks):
    layout = lay_out(lengths, 64, num_ranks)
    assert layout.num_rows % num_ranks == 0
    taken = np.zeros((layout.num_rows, 64), int)
    for length, row, offset in zip(lengths, layout.rows, layout.offsets, strict=True):
        assert offset + length <= 64
        taken[row, offset : offset + length] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(lengths)


@given(st.lists(st.sampled_from([3, 4, 4, 8, 8, 8, 15, 20]), max_size=40))
def test_each_sequence_goes_where_it_fits_best_longest_first(lengths):
    """Against the plain form of the rule, one sequence at a time; equal lengths are placed several at once."""
    rows = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= 20]
        best = max(fitting, key=lambda row: (sum(row), -rows.index(row)), default=None)
        if best is None:
            rows.append(best := [])
        best.append(length)
    layout = lay_out(lengths, 20, 1)
    found = [[] for _ in range(layout.num_rows)]
    for length, row in zip(lengths, layout.rows, strict=True):
        found[row].append(length)
    assert sorted(map(sorted, rows or [[]])) == sorted(map(sorted, found))


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="65 tokens does not fit into a row of 64"):
        lay_out([3, 65], 64, 1)


def long_tailed_lengths(rng, max_tokens, num_tokens):
    lengths = np.minimum(rng.lognormal(np.log(max_tokens / 4), 0.8, num_tokens // (max_tokens // 8)), max_tokens)
    lengths = lengths.astype(int) + 1
    return lengths[: np.searchsorted(np.cumsum(lengths), num_tokens)].tolist()


def test_padding_is_at_most_three_percent_on_long_tails():
    rng = np.random.default_rng(0)
    fractions = []
    for _ in range(5):
        lengths = long_tailed_lengths(rng, max_tokens=512, num_tokens=131_072)
        layout = lay_out(lengths, 2_048 + 4, 1)
        fractions.append(1 - sum(lengths) / (layout.num_rows * 2_052))
    assert np.mean(fractions) <= 0.03


def test_ranks_are_balanced_by_compute():
    rng = np.random.default_rng(1)
    lengths = long_tailed_lengths(rng, max_tokens=1_024, num_tokens=262_144)
    layout = lay_out(lengths, 4_096 + 4, 4)
    assert max(layout.rank_costs) / np.mean(layout.rank_costs) <= 1.03
    assert sum(layout.rank_costs) == pytest.approx(sum(sequence_cost(n) for n in lengths))


def test_every_array_says_what_the_plan_says():
    group = make_group(
        "g", rewards=[1.0, 0.0], lengths=[4, 3], versions=[[(2, 0), (2, 1)], 1], num_prompt_tokens=2, temperature=0.7
    )
    plan = make_plan([group], policy_version=3, token_capacity=8)
    cut = msgspec.structs.replace(plan.sequences[0], interval=TokenInterval("g/0", 1, 3), offset=2)
    plan = msgspec.structs.replace(plan, sequences=(cut, plan.sequences[1]))
    batch = pack_batch(plan, [group])
    prompt, responses = group.prompt_ids.tolist(), group.response_ids.tolist()
    logprobs = group.behavior_logprobs
    assert batch.input_ids.tolist() == [[0, 0, *prompt, *responses[:4]], [*prompt, *responses[4:], 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 0, 0, 0]]
    assert batch.sequence_ids.tolist() == [[0, 0, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(batch.behavior_logprobs[0, 4:], logprobs[:4])
    np.testing.assert_array_equal(batch.behavior_logprobs[1, 2:5], logprobs[4:])
    assert batch.advantages.tolist() == [[0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5], [0, 0, -0.5, -0.5, -0.5, 0, 0, 0]]
    assert batch.token_staleness.tolist() == [[0, 0, 0, 0, 3, 3, 2, 2], [0, 0, 2, 2, 2, 0, 0, 0]]
    np.testing.assert_allclose(batch.temperatures, [[1, 1] + [0.7] * 6, [0.7] * 5 + [1] * 3], rtol=1e-6)
    assert padding_fraction(plan) == pytest.approx(5 / 16)


def test_token_staleness_follows_the_lineage():
    group = make_group("g", versions=PolicyVersion(0, 9))
    plan = make_plan([group], policy_version=PolicyVersion(1, 8), token_capacity=8)
    batch = pack_batch(plan, [group], Lineage().forked(1, 5))
    assert batch.token_staleness.max() == 3


def test_forced_tokens_carry_no_loss():
    group = make_group("g", lengths=4)
    group.loss_mask[1] = 0
    plan = make_plan([group], token_capacity=8)
    assert pack_batch(plan, [group]).loss_mask.sum() == 7


def test_a_missing_or_different_group_is_refused():
    group = make_group("g", lengths=4)
    plan = make_plan([group], token_capacity=8)
    with pytest.raises(ValueError, match="g/0 is not in the buffer"):
        pack_batch(plan, [])
    with pytest.raises(ValueError, match="g/0 is not the planned one"):
        pack_batch(plan, [make_group("g", lengths=5)])


def test_optional_columns_lie_beside_their_tokens_and_padding_is_zero():
    experts, age = Column("routed_experts", "int16", 2), Column("kv_age", "uint8")
    both = make_group("a", lengths=[3, 2], columns=[experts, age])
    one = make_group("b", lengths=[4, 1], columns=[experts])
    plan = msgspec.structs.replace(make_plan([both, one], token_capacity=8), columns=(experts, age))
    batch = pack_batch(plan, [both, one])
    assert batch.columns["routed_experts"].shape == (4, 8, 2)
    rows = [(both, 0, 3), (both, 3, 5), (one, 0, 4), (one, 4, 5)]
    for row, (group, start, end) in enumerate(rows):
        expected = np.zeros((8, 2), np.int16)
        expected[3 : 3 + end - start] = group.columns["routed_experts"][start:end]
        np.testing.assert_array_equal(batch.columns["routed_experts"][row], expected)
    assert batch.columns["kv_age"][:2, 3:6].any()
    assert not batch.columns["kv_age"][2:].any(), "zero where no group has a value"

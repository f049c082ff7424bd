"""What a data-parallel rank is given of a batch: disjoint, complete, under the global Φ."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.algorithms.minibatches import assign_minibatches
from ring_async.batches import PackedBatch
from ring_async.columns import Column
from ring_async.config.schema import TransportSection
from ring_async.core.packing import lay_out
from ring_async.core.rank_batches import RankShare, batch_of_rank, plan_of_rank, rows_of_rank
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.layout import check_batch
from ring_async.transport.batch_wire import batch_buffers, read_batch
from ring_async.transport.codec import Codec
from ring_async.transport.messages.batches import BatchReady, RequestBatch
from ring_async.types import PolicyVersion

SPECS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 8)).map(
        lambda drawn: SequenceSpec(
            prompt_ids=list(range(1, drawn[0] + 1)),
            response_ids=list(range(10, 10 + drawn[1])),
            advantage=float(drawn[2]),
            interval=(min(drawn[2], drawn[1] - 1), drawn[1]),
        )
    ),
    min_size=1,
    max_size=12,
)


def make_batch(specs: list[SequenceSpec], num_ranks: int) -> PackedBatch:
    return pack_sequences(specs, token_capacity=16, num_ranks=num_ranks)


def test_a_rank_by_hand():
    specs = [SequenceSpec([1, 2], [3, 4, 5]), SequenceSpec([6], [7, 8, 9, 10]), SequenceSpec([1], [2, 3], forced=[0])]
    batch = pack_sequences(specs, token_capacity=5, num_ranks=3, order=[1, 0, 2])
    assert [rows_of_rank(batch.plan, rank) for rank in range(3)] == [range(1), range(1, 2), range(2, 3)]
    own, share = batch_of_rank(batch, 2)
    assert share == RankShare(rank=2, num_ranks=3, num_loss_tokens=1, first_loss_token=7)
    assert [sequence.trajectory_id for sequence in own.plan.sequences] == ["trajectory-2"]
    assert own.plan.sequences[0].row == 0
    assert (own.plan.num_rows, own.plan.num_ranks, own.plan.token_budget) == (1, 1, 8)
    assert own.input_ids.tolist() == [[1, 2, 3, 0, 0]]
    assert own.sequence_ids.tolist() == [[1, 1, 1, 0, 0]]
    assert own.loss_mask.tolist() == [[0, 0, 1, 0, 0]]


@settings(max_examples=60)
@given(specs=SPECS, num_ranks=st.integers(1, 4), num_minibatches=st.integers(1, 4))
def test_ranks_are_disjoint_and_cover_the_batch(specs, num_ranks, num_minibatches):
    batch = make_batch(specs, num_ranks)
    assigned = assign_minibatches(batch.loss_mask, num_minibatches, num_ranks)
    parts = [batch_of_rank(batch, rank) for rank in range(num_ranks)]
    for name in ("input_ids", "position_ids", "loss_mask", "advantages", "behavior_logprobs", "temperatures"):
        whole = np.concatenate([getattr(own, name) for own, _ in parts])
        assert np.array_equal(whole, getattr(batch, name)), name
    ids = [sequence.trajectory_id for own, _ in parts for sequence in own.plan.sequences]
    assert sorted(ids) == sorted(sequence.trajectory_id for sequence in batch.plan.sequences)
    first = 0
    for rank, (own, share) in enumerate(parts):
        check_batch(own, share)
        assert own.plan.token_budget == batch.plan.token_budget
        assert (share.rank, share.num_ranks, share.first_loss_token) == (rank, num_ranks, first)
        first += share.num_loss_tokens
        rows = rows_of_rank(batch.plan, rank)
        alone = assign_minibatches(own.loss_mask, num_minibatches, first_loss_token=share.first_loss_token)
        assert np.array_equal(alone, assigned[rows.start : rows.stop])
    assert first == batch.plan.token_budget


@given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=30), num_ranks=st.integers(1, 5))
def test_rows_that_packing_gives_a_rank_are_those_it_is_served(lengths, num_ranks):
    placed = lay_out(lengths, 16, num_ranks)
    plan = make_batch([SequenceSpec([1], [2])], num_ranks).plan
    rows = [rows_of_rank(plan, rank) for rank in range(num_ranks)]
    assert [row for own in rows for row in own] == list(range(plan.num_rows))
    costs = [0] * num_ranks
    for length, row in zip(lengths, placed.rows, strict=True):
        costs[row // (placed.num_rows // num_ranks)] += length
    assert [bool(cost) for cost in costs] == [bool(cost) for cost in placed.rank_costs]


def test_the_whole_batch_is_the_part_of_a_single_rank():
    batch = make_batch([SequenceSpec([1, 2], [3, 4]), SequenceSpec([5], [6])], 1)
    own, share = batch_of_rank(batch, 0)
    assert own.plan == batch.plan == plan_of_rank(batch.plan, 0)
    assert all(np.array_equal(mine, whole) for mine, whole in zip(own.buffers, batch.buffers, strict=True))
    assert share == RankShare(0, 1, 3, 0)


def test_a_rank_that_is_not_there_is_refused():
    batch = make_batch([SequenceSpec([1], [2])], 2)
    with pytest.raises(ValueError, match="plan 1: rank 2 of 2"):
        batch_of_rank(batch, 2)
    with pytest.raises(ValueError, match="rank -1 of 2"):
        rows_of_rank(batch.plan, -1)


def test_a_wrong_share_is_refused():
    own, share = batch_of_rank(make_batch([SequenceSpec([1], [2, 3])], 2), 0)
    with pytest.raises(ValueError, match="2 loss tokens, rank 0's share is 5"):
        check_batch(own, RankShare(0, 2, 5, 0))
    check_batch(own, share)


def test_question_and_answer_travel_with_the_rank():
    codec = Codec(TransportSection())
    ask = RequestBatch(4, PolicyVersion(0, 3), 1.0, data_rank=1)
    assert codec.decode_message(codec.encode_message(ask)) == ask
    batch = make_batch([SequenceSpec([1, 2], [3, 4]), SequenceSpec(list(range(1, 8)), list(range(9)))], 2)
    own, share = batch_of_rank(batch, 1)
    answer = BatchReady(1, share)
    assert codec.decode_message(codec.encode_message(answer)) == answer
    received = read_batch([bytes(memoryview(buffer).cast("B")) for buffer in batch_buffers(own)])
    assert received.plan == own.plan
    assert np.array_equal(received.sequence_ids, own.sequence_ids)


def test_a_rank_is_given_its_rows_of_optional_columns():
    batch = pack_sequences([SequenceSpec([1], [2, 3]), SequenceSpec([4], [5, 6])], token_capacity=3, num_ranks=2)
    experts = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    plan = msgspec.structs.replace(batch.plan, columns=(Column("experts", "uint8", 2),))
    whole = dataclasses.replace(batch, plan=plan, columns={"experts": experts})
    own, _ = batch_of_rank(whole, 1)
    assert own.columns["experts"].tolist() == [[[6, 7], [8, 9], [10, 11]]]

"""Flat microbatches: every token computed once, every scored token found, none leaking into another sequence."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.layout import check_batch, iterate_microbatches, sampled_mask


def random_specs(seed: int, num_groups: int, group_size: int = 3) -> list[SequenceSpec]:
    random = np.random.default_rng(seed)
    specs = []
    for _ in range(num_groups):
        prompt = random.integers(0, 9, random.integers(1, 7)).tolist()
        for _ in range(group_size):
            length = int(random.integers(1, 9))
            start = int(random.integers(0, length))
            specs.append(SequenceSpec(prompt, random.integers(0, 9, length).tolist(), interval=(start, length)))
    return specs


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_groups=st.integers(1, 5), max_tokens=st.integers(1, 60))
def test_every_scored_token_once_with_its_whole_context(seed, num_groups, max_tokens):
    batch = pack_sequences(random_specs(seed, num_groups), token_capacity=24)
    scored = batch.loss_mask != 0
    flat_ids, flat_sequences = batch.input_ids.reshape(-1), batch.sequence_ids.reshape(-1)
    found: list[int] = []
    for microbatch in iterate_microbatches(batch, scored, scored, max_tokens):
        joined = np.concatenate([gather.reshape(-1) for gather in microbatch.gathers])
        assert np.array_equal(joined[microbatch.scatter], np.arange(microbatch.input_ids.size))
        context_of = {}
        for gather in microbatch.gathers:
            for row in gather:
                for column, token in enumerate(row):
                    context_of.setdefault(int(token), microbatch.input_ids[row[: column + 1]].tolist())
        for source, position in zip(microbatch.sources, microbatch.positions, strict=True):
            begin = position - np.argmax(flat_sequences[position::-1] != flat_sequences[position]) + 1
            if (flat_sequences[: position + 1] == flat_sequences[position]).all():
                begin = 0
            context = flat_ids[begin:position].tolist()
            assert microbatch.position_ids[source] == len(context) - 1
            candidates = [
                microbatch.input_ids[row[: np.flatnonzero(row == source)[0] + 1]].tolist()
                for gather in microbatch.gathers
                for row in gather
                if source in row
            ]
            assert candidates
            assert all(candidate == context for candidate in candidates)
        found += microbatch.positions.tolist()
    assert sorted(found) == np.flatnonzero(scored.reshape(-1)).tolist()


def test_responses_to_one_prompt_share_it_whatever_their_rows():
    specs = [SequenceSpec([1, 2, 3, 4], [5, 6]), SequenceSpec([9, 9], [7, 7]), SequenceSpec([1, 2, 3, 4], [7, 8])]
    batch = pack_sequences(specs, token_capacity=8)
    scored = batch.loss_mask != 0
    (microbatch,) = iterate_microbatches(batch, scored, scored, 100)
    # The last token of a response is predicted, never read: 4 + 1 + 1 and 2 + 1.
    assert microbatch.input_ids.tolist() == [1, 2, 3, 4, 5, 7, 9, 9, 7]
    assert microbatch.position_ids.tolist() == [0, 1, 2, 3, 4, 4, 0, 1, 2]
    assert microbatch.sources.tolist() == [3, 4, 3, 5, 7, 8]
    assert microbatch.sequence_ids.tolist() == [0, 0, 1, 1, 2, 2]


def test_tokens_behind_the_last_scored_one_are_not_computed():
    batch = pack_sequences([SequenceSpec([1, 2], [3, 4, 5, 6, 7], interval=(0, 2))], token_capacity=8)
    scored = batch.loss_mask != 0
    (microbatch,) = iterate_microbatches(batch, scored, scored, 100)
    assert microbatch.input_ids.tolist() == [1, 2, 3]


def test_sequences_without_a_wanted_token_are_left_out():
    batch = pack_sequences([SequenceSpec([1, 2], [3]), SequenceSpec([4, 5], [6])], token_capacity=8)
    wanted = batch.loss_mask != 0
    wanted[0, :3] = False
    (microbatch,) = iterate_microbatches(batch, batch.loss_mask != 0, wanted, 100)
    assert microbatch.input_ids.tolist() == [4, 5]


def test_sampled_tokens_are_those_with_loss_and_what_a_cut_left_outside():
    batch = pack_sequences([SequenceSpec([1, 2], [3, 4, 5, 6, 7], interval=(1, 4), forced=(2,))], token_capacity=8)
    assert batch.loss_mask.tolist() == [[0, 0, 0, 1, 0, 1, 0, 0]]
    assert sampled_mask(batch).astype(int).tolist() == [[0, 0, 1, 1, 0, 1, 1, 0]]


def test_batches_that_are_not_what_their_plan_says_are_refused():
    batch = pack_sequences([SequenceSpec([1, 2], [3, 4, 5])], token_capacity=8)
    check_batch(batch)
    short = replace(batch, plan=msgspec.structs.replace(batch.plan, token_budget=4))
    with pytest.raises(ValueError, match="3 loss tokens, the budget is 4"):
        check_batch(short)
    check_batch(replace(short, plan=msgspec.structs.replace(short.plan, is_final=True)))
    moved = np.roll(batch.sequence_ids, 1, axis=1)
    with pytest.raises(ValueError, match="do not lie where the plan says"):
        check_batch(replace(batch, sequence_ids=moved))
    with pytest.raises(ValueError, match="no prompt"):
        check_batch(pack_sequences([SequenceSpec([], [3, 4])], token_capacity=8))

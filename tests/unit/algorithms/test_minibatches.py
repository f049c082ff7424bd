import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.algorithms.minibatches import assign_minibatches


@settings(max_examples=60, deadline=None)
@given(
    num_minibatches=st.integers(1, 5),
    num_ranks=st.integers(1, 3),
    rows_per_rank=st.integers(1, 3),
    share=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_every_loss_token_once_and_exactly_a_share_each(num_minibatches, num_ranks, rows_per_rank, share, seed):
    shape = (num_ranks * rows_per_rank, 30)
    num_tokens = min(share * num_minibatches, shape[0] * shape[1] // num_minibatches * num_minibatches)
    positions = np.random.default_rng(seed).permutation(shape[0] * shape[1])[:num_tokens]
    mask = np.zeros(shape, dtype=np.uint8)
    mask.reshape(-1)[positions] = 1
    assigned = assign_minibatches(mask, num_minibatches, num_ranks)
    assert np.array_equal(assigned >= 0, mask == 1)
    for minibatch in range(num_minibatches):
        assert int((assigned == minibatch).sum()) == num_tokens // num_minibatches
    for rank in range(num_ranks):
        rows = assigned[rank * rows_per_rank : (rank + 1) * rows_per_rank]
        own = rows[rows >= 0]
        assert np.array_equal(own, np.sort(own)), "a rank's minibatches must be runs in row order"
        counts = np.bincount(own, minlength=num_minibatches)
        assert counts.max() - counts.min() <= 1


def test_a_short_last_batch_is_spread_evenly():
    mask = np.ones((1, 7), dtype=np.uint8)
    assert assign_minibatches(mask, 3).tolist() == [[0, 0, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize("num_minibatches", [1, 4])
def test_minibatches_of_one_row(num_minibatches):
    mask = np.array([[0, 1, 1, 0, 1, 1]], dtype=np.uint8)
    expected = [[-1, 0, 0, -1, 0, 0]] if num_minibatches == 1 else [[-1, 0, 1, -1, 2, 3]]
    assert assign_minibatches(mask, num_minibatches).tolist() == expected
